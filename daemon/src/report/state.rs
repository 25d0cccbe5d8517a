//! When the next message of a State stream is due: the first change after quiet at once, then coalesced; urgent ones never wait.

use std::time::Duration;

use crate::node::Revision;

/// Least time between two coalesced messages unless the scheduler asks for another.
pub const INTERVAL: Duration = Duration::from_millis(20);
/// Widest interval a scheduler may ask for; wider, a heartbeat would come before a change.
pub const INTERVAL_MAX: Duration = Duration::from_millis(1000);
/// Silence after which a heartbeat is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// What changed behind this revision.
    Changed {
        since: u64,
    },
    Heartbeat,
    /// Nothing before this moment, unless something changes.
    Wait {
        until: Duration,
    },
}

/// Keeps the pace of one State stream. `now` counts from any fixed moment.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    sent: Revision,
    sent_at: Duration,
    changed_at: Option<Duration>,
}

impl Pace {
    /// The stream's first, complete message went out with this revision.
    pub fn new(sent: Revision, now: Duration) -> Self {
        Self { interval: INTERVAL, sent, sent_at: now, changed_at: None }
    }

    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval.min(INTERVAL_MAX);
    }

    pub fn due(&self, current: Revision, now: Duration) -> Due {
        if current.last > self.sent.last {
            let quiet_over = self.changed_at.map_or(Duration::ZERO, |at| at + self.interval);
            if current.urgent > self.sent.last || now >= quiet_over {
                return Due::Changed { since: self.sent.last };
            }
            return Due::Wait { until: quiet_over };
        }
        let heartbeat = self.sent_at + HEARTBEAT;
        if now >= heartbeat { Due::Heartbeat } else { Due::Wait { until: heartbeat } }
    }

    /// A message left. `revision`: `None` for a heartbeat.
    pub fn sent(&mut self, revision: Option<Revision>, now: Duration) {
        self.sent_at = now;
        if let Some(revision) = revision {
            self.sent = revision;
            self.changed_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn revision(last: u64, urgent: u64) -> Revision {
        Revision { last, urgent }
    }

    #[test]
    fn the_first_change_goes_at_once_the_next_wait_and_urgent_ones_do_not() {
        let mut pace = Pace::new(revision(1, 0), ms(0));
        assert_eq!(pace.due(revision(1, 0), ms(5)), Due::Wait { until: ms(1000) });
        assert_eq!(pace.due(revision(2, 0), ms(5)), Due::Changed { since: 1 });
        pace.sent(Some(revision(2, 0)), ms(5));
        assert_eq!(pace.due(revision(3, 0), ms(6)), Due::Wait { until: ms(25) });
        assert_eq!(pace.due(revision(4, 4), ms(7)), Due::Changed { since: 2 }, "urgent");
        assert_eq!(pace.due(revision(3, 0), ms(25)), Due::Changed { since: 2 });
        pace.sent(Some(revision(3, 0)), ms(25));
        pace.set_interval(ms(100));
        assert_eq!(pace.due(revision(4, 0), ms(60)), Due::Wait { until: ms(125) });
        assert_eq!(pace.due(revision(4, 0), ms(125)), Due::Changed { since: 3 });
        assert_eq!(pace.due(revision(3, 0), ms(1024)), Due::Wait { until: ms(1025) });
        assert_eq!(pace.due(revision(3, 0), ms(1025)), Due::Heartbeat);
        pace.sent(None, ms(1025));
        assert_eq!(pace.due(revision(3, 0), ms(1026)), Due::Wait { until: ms(2025) });
        pace.set_interval(ms(999_999));
        assert_eq!(pace.due(revision(4, 0), ms(1026)), Due::Changed { since: 3 }, "an interval is at most a second");
    }
}
