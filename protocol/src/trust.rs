//! Trust between the nodes of a cluster, based on a secret that all of them have.
//!
//! The API elects the first node and keeps the list of members, and nodes trust it for nothing more. From the cluster secret
//! each node derives two keys (HKDF with SHA-256, RFC 5869, salted with the cluster ID): a *bearer token*, which the API gets,
//! and a *proof key*, which never leaves the nodes. With the proof key a member attests which certificate authority has signed
//! its server's certificate. A joiner that knows the secret verifies this, so nobody has to distribute certificates: without the secret,
//! nobody can forge an attestation, not even the API.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::names::{ClusterId, Node, Uuid};

#[derive(Clone)]
pub struct ClusterKeys {
    token: String,
    proof: [u8; 32],
}

/// The SHA-256 hash of a certificate in DER: 64 hexadecimal digits as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(#[serde(with = "hex::serde")] [u8; 32]);

/// A member's proof that it knows the cluster secret, bound to a [`Statement`]: 64 hexadecimal digits as text.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Attestation(#[serde(with = "hex::serde")] [u8; 32]);

/// The stored form of a cluster's bearer token: a hash salted with the cluster ID. Tokens are random and long, so the hash is a fast
/// one.
#[derive(Clone, Serialize, Deserialize)]
pub struct SecretHash(#[serde(with = "hex::serde")] [u8; 32]);

#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    pub cluster_id: &'a ClusterId,
    pub node: &'a Node,
    pub cluster_uuid: &'a Uuid,
    /// The authority that signed the certificate of the member's server. Community Edition has none.
    pub authority: Option<Fingerprint>,
}

impl ClusterKeys {
    pub fn derive(secret: &[u8], cluster_id: &ClusterId) -> Self {
        let keys = Hkdf::<Sha256>::new(Some(cluster_id.as_str().as_bytes()), secret);
        let key = |purpose: &[u8]| {
            let mut key = [0; 32];
            keys.expand(purpose, &mut key).expect("HKDF gives up to 8160 bytes");
            key
        };
        Self {
            token: hex::encode(key(b"cbbootstrap bearer token")),
            proof: key(b"cbbootstrap proof key"),
        }
    }

    /// The bearer token for the API: 64 hexadecimal digits.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn attest(&self, statement: &Statement<'_>) -> Attestation {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.proof).expect("HMAC takes keys of any length");
        mac.update(b"cbbootstrap member\0");
        let authority = statement.authority.as_ref().map_or(&[][..], |Fingerprint(hash)| hash);
        let fields = [
            statement.cluster_id.as_str().as_bytes(),
            statement.node.as_str().as_bytes(),
            statement.cluster_uuid.as_str().as_bytes(),
            authority,
        ];
        // The length before each field keeps it apart from the next.
        for field in fields {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        Attestation(mac.finalize().into_bytes().into())
    }

    /// Whether a node with the cluster secret has attested the statement. Compares in constant time.
    pub fn verify(&self, statement: &Statement<'_>, attestation: &Attestation) -> bool {
        self.attest(statement) == *attestation
    }
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKeys(..)")
    }
}

impl Fingerprint {
    pub fn of_certificate(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl SecretHash {
    pub fn new(cluster_id: &ClusterId, token: &[u8]) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(token).expect("HMAC takes keys of any length");
        mac.update(b"cbbootstrap cluster secret\0");
        mac.update(cluster_id.as_str().as_bytes());
        Self(mac.finalize().into_bytes().into())
    }
}

/// A type of 32 bytes, in binary and in hexadecimal.
macro_rules! hash32 {
    ($name:ident) => {
        impl $name {
            /// Reads 64 hexadecimal digits.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).ok()?;
                Some(Self(bytes))
            }

            /// Reads exactly 32 bytes.
            pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }
    };
    ($name:ident, compared in constant time) => {
        hash32!($name);

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                subtle::ConstantTimeEq::ct_eq(&self.0[..], &other.0[..]).into()
            }
        }

        impl Eq for $name {}
    };
}

hash32!(Fingerprint);
hash32!(Attestation, compared in constant time);
hash32!(SecretHash, compared in constant time);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for Attestation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Attestation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attestation({self})")
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ClusterId {
        ClusterId::new(text).unwrap()
    }

    /// Computed with Python's `hmac` and the definition in RFC 5869.
    #[test]
    fn keys_are_hkdf_sha_256() {
        let keys = ClusterKeys::derive(b"correct horse battery staple", &id("mycluster"));
        assert_eq!(
            keys.token(),
            "670e012862388a30fc4270a4c7f61c044d44895bb96976aa84fd4b06e802abb9"
        );
        assert_eq!(
            hex::encode(keys.proof),
            "890a75ad1c1c28a3a737dedda51ea9b6746aed02d9023e3bb46023fa5ffcab8c"
        );
        assert_eq!(format!("{keys:?}"), "ClusterKeys(..)");
    }

    #[test]
    fn each_cluster_has_its_own_keys() {
        let [one, other] = ["a", "b"].map(|name| ClusterKeys::derive(b"secret", &id(name)));
        assert_ne!(one.token(), other.token());
        assert_ne!(one.proof, other.proof);
        assert_ne!(one.token(), hex::encode(one.proof));
    }

    #[test]
    fn an_attestation_verifies_only_its_statement() {
        let keys = ClusterKeys::derive(b"secret", &id("c"));
        let (c, other_c) = (id("c"), id("c2"));
        let [node, other_node] = ["a.example", "b.example"].map(|name| Node::new(name).unwrap());
        let [uuid, other_uuid] = ["u1", "u2"].map(|name| Uuid::new(name).unwrap());
        let authority = Some(Fingerprint::of_certificate(b"certificate"));
        let statement = Statement { cluster_id: &c, node: &node, cluster_uuid: &uuid, authority };
        let attestation = keys.attest(&statement);
        assert!(keys.verify(&statement, &attestation));
        assert_eq!(Attestation::from_hex(&attestation.to_string()), Some(attestation));
        for changed in [
            Statement { cluster_id: &other_c, ..statement },
            Statement { node: &other_node, ..statement },
            Statement { cluster_uuid: &other_uuid, ..statement },
            Statement { authority: None, ..statement },
            Statement { authority: Some(Fingerprint::of_certificate(b"other")), ..statement },
        ] {
            assert!(!keys.verify(&changed, &attestation), "{changed:?}");
        }
        assert!(!ClusterKeys::derive(b"other secret", &c).verify(&statement, &attestation));
        for text in ["", "00", &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(Attestation::from_hex(text), None, "{text}");
        }
    }

    #[test]
    fn secret_hashes_are_salted_with_the_cluster() {
        let [one, other] = ["c", "d"].map(id);
        let hash = SecretHash::new(&one, b"secret");
        assert_eq!(hash, SecretHash::new(&one, b"secret"));
        assert_ne!(hash, SecretHash::new(&other, b"secret"));
        assert_ne!(hash, SecretHash::new(&one, b"Secret"));
        assert_eq!(SecretHash::from_bytes(hash.as_bytes()), Some(hash.clone()));
        assert_eq!(SecretHash::from_bytes(b"short"), None);
        assert_eq!(format!("{hash:?}"), "SecretHash(..)");
    }
}
