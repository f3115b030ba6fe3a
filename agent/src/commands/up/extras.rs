//! What a member may have beside its membership: none of it delays the report or ends the run. What the server refuses for good
//! is a warning, and an exit status of its own.

use super::{Round, Run};
use crate::{
    decision::{Extra, Own},
    server::{Error, View},
};

impl Run<'_> {
    pub(super) fn settle(&mut self, extra: &Extra, own: &Own) -> Round {
        let Own::Member(view) = own else {
            return Round::Again;
        };
        let done = match extra {
            Extra::Group => self.group(view),
            Extra::Bucket(name) => self.bucket(name),
            Extra::Address => self.address(),
        };
        match done {
            Ok(done) => {
                self.printer.step(done);
                let Extra::Bucket(name) = extra else {
                    self.done.settled.insert(extra.clone());
                    return Round::Again;
                };
                self.created.insert(name.clone());
                Round::wait(format!("the bucket `{name}` is to appear"))
            }
            Err(error) if error.is_permanent() => self.refuse(extra, &error),
            Err(error) => Round::wait(error.to_string()),
        }
    }

    /// A bucket may have appeared since the last look, so that one counts.
    fn refuse(&mut self, extra: &Extra, error: &Error) -> Round {
        let what = match extra {
            Extra::Group => {
                format!("server group `{}`", self.plan.group.as_deref().unwrap_or_default())
            }
            Extra::Bucket(name) => format!("bucket `{name}`"),
            Extra::Address => "alternate address".to_owned(),
        };
        if let Extra::Bucket(name) = extra {
            match self.here.server.cluster() {
                Ok(Some(view)) if view.buckets.contains(name) => return Round::Again,
                Ok(_) if self.created.contains(name) => {
                    return Round::wait(format!("the bucket `{name}` is to appear"));
                }
                Ok(_) => {}
                Err(error) => return Round::wait(error.to_string()),
            }
        }
        self.printer.warning(format_args!(
            "the server refuses the {what}: {error}; the node is a member without it"
        ));
        self.refused.push(what);
        self.done.settled.insert(extra.clone());
        Round::Again
    }

    /// The first node begins in a group of the server's own, which is given the name. Where another node was quicker and has made
    /// the group, this one moves into it. A node that is not new stays where its operators have put it.
    fn group(&self, view: &View) -> Result<String, Error> {
        let wanted = self.plan.group.as_deref().unwrap_or_default();
        let refused = |why: String| Error::Refused(ureq::http::StatusCode::BAD_REQUEST, why);
        if !self.is_enterprise() {
            return Err(refused("Community Edition has no server groups".to_owned()));
        }
        let Some(this) = view.this() else {
            return Err(Error::Away("the server does not know itself yet".to_owned()));
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
            _ if !self.done.has_initialised => {
                let group = this.group.as_deref().unwrap_or("another one");
                Err(refused(format!(
                    "it is in the server group `{group}`, and moving it is left to you"
                )))
            }
            (_, Some(named)) => {
                server.move_to_group(&groups, &this.otp, named)?;
                Ok(format!("group: moved to `{wanted}`"))
            }
            (_, None) => {
                server.create_group(wanted)?;
                Err(Error::Away(format!("the server group `{wanted}` is to appear")))
            }
        }
    }

    fn bucket(&self, name: &str) -> Result<String, Error> {
        let Some(bucket) = self.plan.buckets.iter().find(|bucket| bucket.name == name) else {
            return Ok(format!("bucket: `{name}`"));
        };
        self.here.server.create_bucket(bucket)?;
        Ok(format!("bucket: `{name}`, {} MB on each node", bucket.quota))
    }

    fn address(&self) -> Result<String, Error> {
        let address = self
            .plan
            .alternate_address
            .as_ref()
            .map(|address| address.host().to_string())
            .unwrap_or_default();
        self.here.server.set_alternate_address(&address)?;
        Ok(format!("alternate address: {address}"))
    }
}
