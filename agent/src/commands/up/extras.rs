//! Server group, buckets and alternate address. None delays the report or ends the run: a permanent refusal is a warning, and the
//! run ends as [`Exit::Partial`](cbbootstrap_cli::exit::Exit::Partial).

use ureq::http::StatusCode;

use super::{Interrupt, Run};
use crate::{decision::Extra, http::CallError, server::View, values::BucketSpec};

impl Run<'_> {
    pub(super) fn apply_extra(&mut self, extra: &Extra, view: &View) -> Result<(), Interrupt> {
        let server = &self.here.server;
        let done = match extra {
            Extra::Group(name) => self.set_group(name, view),
            Extra::Bucket(bucket) => server
                .create_bucket(bucket)
                .map(|()| format!("bucket: `{}`, {} MB on each node", bucket.name, bucket.quota)),
            Extra::AlternateAddress(host) => {
                server.set_alternate_address(host).map(|()| format!("alternate address: {host}"))
            }
        };
        match done {
            Ok(done) => {
                self.printer.step(done);
                if let Extra::Bucket(BucketSpec { name, .. }) = extra {
                    self.state.created.insert(name.clone());
                    return Err(wait_for_bucket(name));
                }
                self.state.memory.done_extras.insert(extra.clone());
                Ok(())
            }
            Err(error) if error.is_permanent() => self.note_refusal(extra, &error),
            Err(error) => Err(error.into()),
        }
    }

    fn note_refusal(&mut self, extra: &Extra, error: &CallError) -> Result<(), Interrupt> {
        if let Extra::Bucket(BucketSpec { name, .. }) = extra {
            // The bucket may have appeared.
            match self.here.server.cluster()? {
                Some(view) if view.buckets.contains(name) => return Ok(()),
                _ if self.state.created.contains(name) => return Err(wait_for_bucket(name)),
                _ => {}
            }
        }
        self.printer.warning(format_args!(
            "the server refuses the {extra}: {error}; the node is a member without it"
        ));
        self.state.refused.push(extra.to_string());
        self.state.memory.done_extras.insert(extra.clone());
        Ok(())
    }

    /// The first node renames the group that its server begins in, or moves if other nodes are there already. A node that was not
    /// initialized by this run stays where its operators have put it.
    fn set_group(&self, wanted: &str, view: &View) -> Result<String, CallError> {
        let refusal = |why: String| Err(CallError::Refused(StatusCode::BAD_REQUEST, why));
        if !self.is_enterprise() {
            return refusal("Community Edition has no server groups".to_owned());
        }
        let Some(this) = view.this() else {
            return Err(CallError::Unreachable("the server does not list itself yet".to_owned()));
        };
        let server = &self.here.server;
        let groups = server.groups()?;
        let own =
            groups.groups.iter().find(|group| group.nodes.iter().any(|node| node.otp == this.otp));
        let named = groups.groups.iter().find(|group| group.name == wanted);
        match (own, named) {
            (Some(own), None) if own.nodes.len() == 1 && view.nodes.len() == 1 => {
                server.rename_group(own, wanted)?;
                Ok(format!("group: `{wanted}`"))
            }
            _ if !self.state.memory.kept.has_begun_cluster => {
                let group = this.group.as_deref().unwrap_or("another one");
                refusal(format!(
                    "the node is already in server group `{group}`; move it in Couchbase Server"
                ))
            }
            (_, Some(named)) => {
                server.move_to_group(&groups, &this.otp, named)?;
                Ok(format!("group: moved to `{wanted}`"))
            }
            (_, None) => {
                server.create_group(wanted)?;
                Err(CallError::Unreachable(format!("the server group `{wanted}` is being created")))
            }
        }
    }
}

fn wait_for_bucket(name: &str) -> Interrupt {
    Interrupt::wait(format!("the bucket `{name}` is being created"))
}
