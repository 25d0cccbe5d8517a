//! One output's grammar, as the engine's mask.

use std::sync::Arc;

use engine::sample::{Accepted, LogitMask, MaskError};
use engine_text::reasoning::{Opening, ReasoningFormat, ThoughtEnd};
use engine_text::{Detokenizer, Text};
use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::compile::{Compiled, Guides};
use super::workers::{Desk, Job, Workers};

/// The mask of one output.
pub struct Guide {
    /// `None` while a worker has it, or lies on its desk.
    machine: Option<Machine>,
    desk: Arc<Desk<Machine>>,
    workers: Workers<Machine>,
}

/// What computes masks, and the last one.
pub struct Machine {
    matcher: Matcher,
    /// Before the grammar begins.
    thought: Option<Thought>,
    mask: SimpleVob,
    vocabulary: usize,
    result: Result<(), MaskError>,
}

/// The model thinks, as it likes; its answer is what the grammar is for.
struct Thought {
    end: ThoughtEnd,
    detokenizer: Detokenizer,
    /// The token that begins a thought, where none need begin.
    start: Option<u32>,
}

impl Guide {
    /// The mask of an output that follows a prompt. `thought`: how the model thinks before it answers, and where the prompt left it.
    pub fn new(
        guides: &Guides,
        compiled: &Compiled,
        text: &Text,
        vocabulary: usize,
        thought: Option<(&'static ReasoningFormat, Opening)>,
    ) -> Self {
        let thought = thought.and_then(|(format, opening)| {
            let opening = format.begins(opening);
            let start = format.markers().next().and_then(|marker| text.token_id(marker));
            let thinks = opening == Opening::Inside || opening == Opening::Outside && start.is_some();
            let detokenizer = text.detokenizer(&[], false);
            thinks.then(|| Thought { end: ThoughtEnd::new(format, opening), detokenizer, start })
        });
        let machine =
            Machine { matcher: compiled.matcher(), thought, mask: SimpleVob::alloc(vocabulary), vocabulary, result: Ok(()) };
        Self { machine: Some(machine), desk: Desk::new(), workers: guides.workers().clone() }
    }

    fn machine(&mut self) -> Result<&mut Machine, MaskError> {
        if self.machine.is_none() {
            self.machine = self.desk.take();
        }
        self.machine.as_mut().ok_or_else(|| MaskError("the grammar's matcher failed".into()))
    }
}

impl LogitMask for Guide {
    fn begin(&mut self) {
        if let Some(machine) = self.machine.take() {
            self.workers.begin(&self.desk, machine);
        }
    }

    fn join(&mut self) -> Result<&[u32], MaskError> {
        let machine = self.machine()?;
        machine.result.clone()?;
        Ok(machine.mask.as_slice())
    }

    fn accept(&mut self, token: u32) -> Result<Accepted, MaskError> {
        self.machine()?.accept(token)
    }
}

impl Job for Machine {
    fn work(&mut self) {
        self.result = self.compute();
    }
}

impl Machine {
    fn compute(&mut self) -> Result<(), MaskError> {
        let skippable = match &self.thought {
            Some(thought) if !thought.end.may_be_skipped() => {
                self.mask.set_all(true);
                return Ok(());
            }
            Some(thought) => thought.start,
            None => None,
        };
        self.mask = self.matcher.compute_mask_or_eos().map_err(|error| failed(&error.to_string()))?;
        if let Some(start) = skippable.filter(|start| (*start as usize) < self.vocabulary) {
            self.mask.allow_token(start);
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<Accepted, MaskError> {
        if let Some(thought) = &mut self.thought {
            let skipped = thought.end.may_be_skipped() && thought.start != Some(token);
            let over = !skipped && thought.end.feed(thought.detokenizer.push(token)).is_some();
            if skipped || over {
                self.thought = None;
            }
            if !skipped {
                return Ok(Accepted::More);
            }
        }
        self.matcher.consume_token(token).map_err(|error| failed(&error.to_string()))?;
        Ok(if self.matcher.is_stopped() { Accepted::Ended } else { Accepted::More })
    }
}

fn failed(error: &str) -> MaskError {
    let line: String = error.lines().next().unwrap_or_default().chars().take(200).collect();
    MaskError(line)
}
