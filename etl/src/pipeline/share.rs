//! Which partitions this process reads: all, or its share where several processes land one stream.
use tokio_util::sync::CancellationToken;

use super::landing::{Around, Landing};
use crate::error::Result;
use crate::topic::Membership;

/// This process's share of the topic.
pub(super) enum Share {
    /// All partitions, for as long as it runs.
    All,
    /// What the group gives us.
    Member(Box<dyn Membership>),
}

/// Partitions to read.
pub(super) enum Mine {
    /// All that the topic has.
    All,
    /// These.
    These(Vec<i32>),
}

impl Share {
    /// Joins the stream's group if the stream is shared and the broker has groups.
    pub(super) async fn join(around: &Around, landing: &Landing) -> Result<Self> {
        if !landing.shared {
            return Ok(Self::All);
        }
        let member = around.broker.join(&format!("tidemill-{}", landing.stream), &landing.topic).await?;
        Ok(member.map_or(Self::All, Self::Member))
    }

    /// Waits for a share that is not empty; `None` if `stop` was cancelled first.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> Result<Option<Mine>> {
        let Self::Member(member) = self else { return Ok(Some(Mine::All)) };
        loop {
            let partitions = member.partitions();
            if !partitions.is_empty() {
                return Ok(Some(Mine::These(partitions)));
            }
            // Nothing is held: whoever waits for us to let go may go on.
            member.released();
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                changed = member.changed() => changed?,
            }
        }
    }

    /// Waits until the share is about to change: what was read must be committed, then [`Share::released`] be called.
    pub(super) async fn changed(&mut self) {
        match self {
            Self::All => std::future::pending().await,
            // A group that fails is found out by the next wait.
            Self::Member(member) => drop(member.changed().await),
        }
    }

    /// Tells the group that nothing is held any more.
    pub(super) fn released(&mut self) {
        if let Self::Member(member) = self {
            member.released();
        }
    }
}
