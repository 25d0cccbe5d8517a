//! What comes through the door: new requests, aborts, commands.

use std::time::Instant;

use super::{Engine, Fetch};
use crate::backend::DeviceError;
use crate::handle::{Command, Leased, Outlook, RemoteOutcome, Reset, Submitted};
use crate::observe::FinishedReport;
use crate::plan::reserve_all;
use crate::request::{FinishReason, Finished, Output, RequestId};
use crate::sequence::{Key, Sequence, State};

impl Engine {
    /// Takes in all mail. New requests come before aborts, so that an abort finds a request that was submitted just before.
    pub(super) fn admit(&mut self) -> Result<Outlook, DeviceError> {
        let now = (self.ports.clock)();
        self.take_answers(now)?;
        let mut mail = std::mem::take(&mut self.mail);
        let outlook = self.door.take(&mut mail);
        for submitted in mail.submitted.drain(..) {
            self.accept(submitted)?;
        }
        let aborted = !mail.aborts.is_empty();
        for (id, reason) in mail.aborts.drain(..) {
            if let Some(key) = self.schedule.table.find(id) {
                self.end(key, reason, now);
            }
        }
        if aborted {
            self.schedule.sweep();
        }
        for command in mail.commands.drain(..) {
            self.obey(command)?;
        }
        self.mail = mail;
        self.sweep_adapters();
        self.schedule.kv.expire_leases(now);
        self.expire_transfers(now);
        self.rest()?;
        self.schedule.prefill_tokens_max = match self.door.limits.config.step_time {
            Some(time) => self.stats.prefill_tokens_within(time),
            None => usize::MAX,
        };
        Ok(outlook)
    }

    fn accept(&mut self, submitted: Submitted) -> Result<(), DeviceError> {
        let adapter = self.adapter_of(&submitted.request.extra);
        let key = self.schedule.table.insert(Sequence::new(submitted));
        match adapter {
            Ok(slot) => self.schedule.table.get_mut(key).adapter = slot,
            Err(reason) => {
                self.end(key, reason, (self.ports.clock)());
                return Ok(());
            }
        }
        if !self.fetch(key)? {
            self.schedule.wait(key);
        }
        Ok(())
    }

    /// Begins the transfer of a request's KV. `false`: it brings none, or there is no room for one more that waits with its blocks;
    /// then it is computed here.
    fn fetch(&mut self, key: Key) -> Result<bool, DeviceError> {
        if self.ports.fetch.is_none() || self.pause.is_paused() {
            return Ok(false);
        }
        let schedule = &mut self.schedule;
        let sequence = schedule.table.get_mut(key);
        let pinned = schedule.kv.leases().blocks() + schedule.remote_blocks + schedule.kv.blocks_for(sequence.tokens.len() + 1);
        if !sequence.remote_kv || sequence.scores() || pinned > self.door.limits.config.pinned_blocks_max {
            return Ok(false);
        }
        let Some(cached) = reserve_all(&mut schedule.kv, sequence) else { return Ok(false) };
        // What the blocks held is saved before the transfer writes to them.
        self.make_moves()?;
        let schedule = &mut self.schedule;
        let sequence = schedule.table.get_mut(key);
        let begun =
            |fetch: &mut Box<dyn Fetch>| fetch.fetch(sequence.id, sequence.kv_transfer.as_deref(), &sequence.blocks, cached);
        if !self.ports.fetch.as_mut().is_some_and(begun) {
            schedule.retire(key);
            return Ok(false);
        }
        sequence.become_state(State::WaitingRemote);
        self.transfers.push_back((schedule.now + self.door.limits.config.remote_wait_max, sequence.id));
        sequence.cached_tokens = cached;
        schedule.remote_blocks += sequence.blocks.len();
        self.stats.prefix_query_tokens += sequence.tokens.len() as u64;
        self.stats.prefix_hit_tokens += u64::from(cached);
        Ok(true)
    }

    fn obey(&mut self, command: Command) -> Result<(), DeviceError> {
        match command {
            Command::AbortAll(reason) => self.end_all(&reason),
            Command::Pause(mode, quiet, reply) => self.pause(mode, quiet, reply),
            Command::Resume(reply) => {
                self.door.accept();
                self.resume();
                self.replies.push(reply);
            }
            Command::Wake(wake, reply) => {
                let awake = self.wake(wake)?;
                if awake {
                    self.door.accept();
                }
                self.replies.push(Box::new(move || reply(awake)));
            }
            Command::ResetPrefixCache(reset, reply) => reply(self.reset(reset)?),
            Command::Blocks(reply) => self.list(reply),
            Command::Lease { chain, expires, reply } => {
                let kv = &mut self.schedule.kv;
                let pinned = kv.leases().blocks() + self.schedule.remote_blocks;
                let blocks_max = self.door.limits.config.pinned_blocks_max.saturating_sub(pinned);
                reply(kv.lease(&chain, blocks_max, expires).map(|(id, blocks)| Leased { id, blocks }));
            }
            Command::Renew(lease, expires) => {
                self.schedule.kv.renew_lease(lease, expires);
            }
            Command::Release(lease) => self.schedule.kv.release_lease(lease),
            Command::Remote(id, outcome) => self.remote_done(id, outcome),
            Command::LoadAdapter { key, adapter, replaces, reply } => reply(self.load_adapter(key, &adapter, replaces)),
            Command::UnloadAdapter { name, reply } => {
                reply(self.adapters.unload(&name));
            }
        }
        Ok(())
    }

    /// Forgets the prefix cache; says whether nobody held a block of it.
    fn reset(&mut self, reset: Reset) -> Result<bool, DeviceError> {
        if reset.running {
            while !self.in_flight.is_empty() {
                self.settle()?;
            }
            self.stats.preemptions += self.schedule.preempt_all() as u64;
        }
        let done = self.schedule.kv.reset(reset.lower);
        if done && reset.lower {
            self.lower.clear();
        }
        Ok(done)
    }

    /// Requests whose transfer takes too long compute their prompt here. Its blocks are kept until it says that it has ended.
    fn expire_transfers(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.transfers.front() {
            let key = self.schedule.table.find(id);
            let key = key.filter(|&key| self.schedule.table.get(key).state == State::WaitingRemote);
            if key.is_some() && deadline > now {
                return;
            }
            self.transfers.pop_front();
            let Some(key) = key else { continue };
            self.give_up_transfer(key);
            self.stats.transfers_late += 1;
        }
    }

    /// A request no longer waits for its transfer.
    fn give_up_transfer(&mut self, key: Key) {
        let sequence = self.schedule.table.get_mut(key);
        self.adrift.insert(sequence.id, std::mem::take(&mut sequence.blocks));
        sequence.become_state(State::Waiting);
        self.schedule.retire(key);
        self.schedule.wait_first(key);
    }

    /// Whatever came from other engines, or is coming, is of no use any more.
    pub(super) fn give_up_remote(&mut self) {
        for id in self.schedule.table.ids() {
            let Some(key) = self.schedule.table.find(id) else { continue };
            let sequence = self.schedule.table.get(key);
            match sequence.state {
                State::WaitingRemote => self.give_up_transfer(key),
                State::Waiting if !sequence.blocks.is_empty() => {
                    self.schedule.remote_blocks -= sequence.blocks.len();
                    self.schedule.retire(key);
                }
                State::Waiting | State::Restoring | State::Running | State::Finished => {}
            }
        }
    }

    fn remote_done(&mut self, id: RequestId, outcome: RemoteOutcome) {
        let schedule = &mut self.schedule;
        if let Some(blocks) = self.adrift.remove(&id) {
            schedule.remote_blocks -= blocks.len();
            schedule.kv.release(&blocks);
            return;
        }
        let Some(key) = schedule.table.find(id) else { return };
        let sequence = schedule.table.get_mut(key);
        // Said twice, or of a request that never fetched.
        if sequence.state != State::WaitingRemote {
            return;
        }
        sequence.become_state(State::Waiting);
        if let RemoteOutcome::Received { tokens } = outcome {
            // The last token is computed here in any case: the first output comes from it.
            let there = tokens.min(sequence.progress.known - 1).max(sequence.cached_tokens);
            sequence.remote_tokens = there - sequence.cached_tokens;
            sequence.progress.restart(there);
            if self.door.limits.config.prefix_caching {
                schedule.offer(key, &mut self.hasher);
            }
        }
        // It waited its turn already, and holds blocks.
        schedule.wait_first(key);
    }

    /// Ends every request.
    pub(super) fn end_all(&mut self, reason: &FinishReason) {
        let now = (self.ports.clock)();
        for id in self.schedule.table.ids() {
            if let Some(key) = self.schedule.table.find(id) {
                self.end(key, reason.clone(), now);
            }
        }
        self.schedule.sweep();
    }

    /// Ends a request: says so, and gives back what it holds. The caller [sweeps](crate::plan::Schedule::sweep) the lists before a
    /// new request can take its place in the table.
    pub(super) fn end(&mut self, key: Key, reason: FinishReason, now: Instant) {
        let schedule = &mut self.schedule;
        let sequence = schedule.table.get_mut(key);
        let before = sequence.state;
        sequence.become_state(State::Finished);
        match before {
            // Somebody writes to its blocks until he says that he is done.
            State::WaitingRemote => {
                self.adrift.insert(sequence.id, std::mem::take(&mut sequence.blocks));
            }
            State::Waiting => {
                schedule.remote_blocks -= sequence.blocks.len();
                if let Some(turn) = sequence.turn.take() {
                    schedule.waiting.remove(turn);
                }
            }
            State::Restoring => schedule.drop_restore(key),
            State::Running | State::Finished => {}
        }
        schedule.retire(key);
        let mut sequence = schedule.table.remove(key);
        if sequence.admitted.is_none() {
            self.departed.requests += 1;
            self.departed.prompt_tokens += sequence.progress.prompt as usize;
        }
        self.stats.finished += 1;
        self.report.finished.push(finished_report(&sequence, reason.clone(), now));
        // Nobody may read any more; that is no news here.
        sequence.sink.put(Output::Finished(Finished {
            reason,
            prompt_tokens: sequence.progress.prompt,
            cached_tokens: sequence.cached_tokens,
            generated_tokens: sequence.generated(),
            preemptions: sequence.preemptions,
            kv_transfer: sequence.kv_transfer.take(),
        }));
    }
}

fn finished_report(sequence: &Sequence, reason: FinishReason, now: Instant) -> FinishedReport {
    let Sequence { arrived, admitted, first_token, last_token, .. } = *sequence;
    let between = |from: Option<Instant>, to: Option<Instant>| Some(to?.saturating_duration_since(from?));
    FinishedReport {
        request: sequence.id,
        reason,
        prompt_tokens: sequence.progress.prompt,
        cached_tokens: sequence.cached_tokens,
        generated_tokens: sequence.generated(),
        tokens_max: sequence.finish.tokens_max,
        preemptions: sequence.preemptions,
        e2e: now.saturating_duration_since(arrived),
        queue: between(Some(arrived), admitted),
        prefill: between(admitted, first_token),
        decode: between(first_token, last_token),
        inference: between(admitted, last_token),
    }
}
