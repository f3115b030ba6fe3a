//! The memory of services on a node.

use serde::Deserialize;

use crate::values::Services;

/// Each service's quota on each node in MB, as a server shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Quotas {
    #[serde(rename = "memoryQuota")]
    data: u64,
    #[serde(rename = "indexMemoryQuota")]
    index: u64,
    #[serde(rename = "queryMemoryQuota")]
    query: u64,
    #[serde(rename = "ftsMemoryQuota")]
    search: u64,
    #[serde(rename = "cbasMemoryQuota")]
    analytics: u64,
    #[serde(rename = "eventingMemoryQuota")]
    eventing: u64,
}

impl Quotas {
    /// The quotas of these services together.
    pub fn sum(self, services: &Services) -> u64 {
        let data = if services.has("data") { self.data } else { 0 };
        self.sum_without_data(services).saturating_add(data)
    }

    /// The same without the data service's.
    pub fn sum_without_data(self, services: &Services) -> u64 {
        let Self { data: _, index, query, search, analytics, eventing } = self;
        let quotas = [
            ("index", index),
            ("query", query),
            ("search", search),
            ("analytics", analytics),
            ("eventing", eventing),
        ];
        let own = quotas.iter().filter(|(service, _)| services.has(service));
        own.fold(0, |sum, (_, quota)| sum.saturating_add(*quota))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// N1 of the recordings: a node with 24 GB.
    #[test]
    fn sum_has_the_quotas_of_the_nodes_services() {
        let quotas = Quotas::deserialize(json!({
            "memoryTotal": 25_276_502_016_u64, "memoryQuota": 11540, "indexMemoryQuota": 512, "ftsMemoryQuota": 512,
            "cbasMemoryQuota": 2904, "eventingMemoryQuota": 256, "queryMemoryQuota": 0,
        }));
        let quotas = quotas.unwrap();
        for (services, sum, without_data) in [
            ("data", 11540, 0),
            ("data,query,backup", 11540, 0),
            ("data,index,search", 12564, 1024),
            ("data,analytics", 14444, 2904),
            ("index,eventing", 768, 768),
        ] {
            let services = services.parse().unwrap();
            assert_eq!(quotas.sum(&services), sum, "{services}");
            assert_eq!(quotas.sum_without_data(&services), without_data, "{services}");
        }
    }

    #[test]
    fn missing_quota_is_zero() {
        assert_eq!(Quotas::deserialize(json!({})).unwrap(), Quotas::default());
    }
}
