//! All choices of one HTTP request: submitted, and their pieces in the order in which they come.
//!
//! The choices of one prompt share its blocks through the prefix cache. Blocks are known there once they are computed, so the first
//! choice goes ahead, and the others follow at its first token and find all but the prompt's last block.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use domain::ReplicaId;
use engine::handle::Handle;
use engine::request::{NewRequest, Output};
use engine::sample::LogitMask;
use engine_text::Text;
use engine_text::reasoning::Opening;
use http::StatusCode;
use proto::openai::{CompletionTokensDetails, PromptTokensDetails, RequestMetrics, Usage};
use tokio::sync::mpsc;

use super::answer::ApiError;
use super::choice::{Choice, Piece, Running};
use super::open::OpenRequests;
use super::plan::Plan;
use super::prompt::{Prompt, text_error};
use crate::edge::app::{App, Ready};
use crate::guide::{Budget, Compiled, Guide, Guides};
use crate::metrics::Metrics;

/// The choices over one queue, which holds at most what `max_tokens` allows, some hundred bytes a token.
pub struct Generation {
    outputs: mpsc::UnboundedReceiver<(u32, Output)>,
    /// Outputs that come before those of the queue.
    backlog: VecDeque<(u32, Output)>,
    /// By index: number of the prompt · n + number of the choice.
    pub choices: Vec<Choice>,
    open: usize,
    plan: Arc<Plan>,
    door: Door,
}

/// A piece of the choice with this index.
pub type Indexed = (u32, Piece);

/// How the outputs are bound and read.
pub struct Reading {
    /// Where the prompt leaves the thought.
    pub opening: Opening,
    /// The form that outputs must have.
    pub guide: Option<(Arc<Guides>, Arc<Compiled>)>,
    /// Whether it holds for the thought, too.
    pub in_reasoning: bool,
    pub text: Text,
    pub vocabulary: usize,
}

impl Reading {
    fn mask(&self, plan: &Plan) -> Result<Option<Box<dyn LogitMask>>, ApiError> {
        let thought = plan.reply.format.reasoning.map(|format| (format, self.opening));
        let guide = |(guides, compiled): &(Arc<Guides>, Arc<Compiled>)| -> Box<dyn LogitMask> {
            let thought = thought.filter(|_| !self.in_reasoning);
            Box::new(Guide::new(guides, compiled, &self.text, self.vocabulary, thought))
        };
        let guide = self.guide.as_ref().map(guide);
        let (Some(thought), Some(tokens_max)) = (thought, plan.reply.thought_tokens_max) else { return Ok(guide) };
        let budget = Budget::new(&self.text, self.vocabulary, thought, tokens_max, guide).map_err(text_error)?;
        Ok(Some(Box::new(budget)))
    }
}

/// Who asks, and since when.
pub struct Origin {
    /// The request's own id.
    pub name: Arc<str>,
    /// The scheduler's replica that sent it.
    pub replica: Option<ReplicaId>,
    pub arrived: Instant,
}

/// What a choice is submitted with.
struct Door {
    reading: Option<Reading>,
    handle: Handle,
    metrics: Arc<Metrics>,
    /// Where the request is known, and by which id.
    open: Option<(Arc<OpenRequests>, Arc<str>)>,
    /// Weak, so that the queue ends when the engine has let go of every choice.
    sender: mpsc::WeakUnboundedSender<(u32, Output)>,
    arrived: Instant,
    /// Seed of the first choice.
    seed: u64,
    prompt_param: &'static str,
    /// Choices of a prompt, of which all but the first may still wait for it.
    n: u32,
    /// Prompts whose other choices wait, by number of the prompt.
    ahead: Vec<bool>,
}

impl Generation {
    /// Submits the first choice of each prompt, and those that would not gain from waiting for it.
    pub fn submit(
        app: &App,
        ready: &Ready,
        plan: &Arc<Plan>,
        prompts: Vec<Prompt>,
        origin: Origin,
        reading: Reading,
    ) -> Result<Self, ApiError> {
        let Origin { name, replica, arrived } = origin;
        let (sender, outputs) = mpsc::unbounded_channel();
        let n = plan.n;
        let limits = ready.handle.limits();
        let shares = |prompt: &Prompt| {
            // The log probabilities of a prompt are told once, by its first choice.
            n > 1 && plan.tells_prompt()
                || n > 1
                    && limits.config.prefix_caching
                    && prompt.ids.len() > limits.capacity.block_tokens
                    && plan.kv_transfer.is_none()
        };
        let ahead = prompts.iter().map(shares).collect();
        let mut choices = Vec::with_capacity(prompts.len() * n as usize);
        for prompt in prompts {
            for choice in 0..n {
                // Computed once, whoever computes it.
                let uncached = if choice == 0 { prompt.ids.len() as u64 } else { 0 };
                let in_flight = app.in_flight.open(replica.as_ref(), uncached);
                let detokenizer = ready.text.detokenizer(&prompt.ids, plan.skip_special_tokens);
                let mut choice = Choice::new(in_flight, Arc::clone(plan), detokenizer, prompt.clone(), arrived);
                choice.adapts(plan.extra.adapter.as_ref().and_then(|key| app.adapters.begin(key)));
                choices.push(choice);
            }
        }
        let door = Door {
            reading: Some(reading),
            handle: ready.handle.clone(),
            metrics: Arc::clone(&app.metrics),
            open: Some((Arc::clone(&app.open), name)),
            sender: sender.downgrade(),
            arrived,
            seed: plan.sampling.seed,
            prompt_param: plan.endpoint.prompt_param(),
            n,
            ahead,
        };
        let mut generation =
            Self { outputs, backlog: VecDeque::new(), open: choices.len(), choices, plan: Arc::clone(plan), door };
        for index in 0..generation.choices.len() as u32 {
            if index % n == 0 || !generation.door.ahead[(index / n) as usize] {
                // A refusal here drops the choices before it, which aborts them.
                generation.submit_choice(index, sender.clone())?;
            }
        }
        drop(sender);
        app.metrics.asked(n);
        Ok(generation)
    }

    /// One choice whose outputs a test says.
    #[cfg(test)]
    pub fn fed(
        outputs: mpsc::UnboundedReceiver<(u32, Output)>,
        choice: Choice,
        plan: Arc<Plan>,
        handle: Handle,
        metrics: Arc<Metrics>,
    ) -> Self {
        let sender = mpsc::unbounded_channel().0.downgrade();
        let (arrived, prompt_param) = (Instant::now(), plan.endpoint.prompt_param());
        let door =
            Door { reading: None, handle, metrics, open: None, sender, arrived, seed: 0, prompt_param, n: 1, ahead: vec![false] };
        Self { outputs, backlog: VecDeque::new(), choices: vec![choice], open: 1, plan, door }
    }

    /// A way into the queue.
    fn sender(&mut self) -> mpsc::UnboundedSender<(u32, Output)> {
        if let Some(sender) = self.door.sender.upgrade() {
            return sender;
        }
        // All that were submitted have ended: what they left is taken out, and the queue begins anew.
        while let Ok(output) = self.outputs.try_recv() {
            self.backlog.push_back(output);
        }
        let (sender, outputs) = mpsc::unbounded_channel();
        self.outputs = outputs;
        self.door.sender = sender.downgrade();
        sender
    }

    /// From now on the text of the choices is parted into thought, content and calls, for an endpoint that shows all three.
    pub fn part(&mut self) {
        let opening = self.door.reading.as_ref().map_or(Opening::Unknown, |reading| reading.opening);
        for choice in &mut self.choices {
            choice.reads(self.plan.reply.reader(opening));
        }
    }

    fn submit_choice(&mut self, index: u32, sender: mpsc::UnboundedSender<(u32, Output)>) -> Result<(), ApiError> {
        let (plan, door) = (&self.plan, &self.door);
        let choice = &mut self.choices[index as usize];
        let prompt = Arc::clone(&choice.prompt().ids);
        let mut sampling = plan.sampling;
        // As vLLM: choice j of a prompt has the seed that was given plus j. Without one, two prompts that are alike may be answered
        // differently.
        sampling.seed = if plan.seeded { door.seed.wrapping_add((index % door.n).into()) } else { rand::random() };
        let request = NewRequest {
            extra: plan.extra.clone(),
            sampling,
            extras: if index.is_multiple_of(door.n) { plan.extras.clone() } else { plan.extras_without_prompt() },
            mask: door.reading.as_ref().map(|reading| reading.mask(plan)).transpose()?.flatten(),
            finish: plan.finish(prompt.len(), door.handle.limits().length_max),
            prompt,
            priority: plan.priority,
            kv_transfer: plan.kv_transfer.clone(),
            remote_kv: false,
            arrived: door.arrived,
            sink: Box::new(move |output| sender.send((index, output)).is_ok()),
        };
        let id = door.handle.submit(request).map_err(|reason| {
            door.metrics.rejected(&reason);
            ApiError::rejected(&reason, door.prompt_param)
        })?;
        let open = door.open.as_ref().map(|(requests, name)| requests.open(name, id));
        choice.runs(Running::new(door.handle.clone(), id, open));
        Ok(())
    }

    /// The next piece of any choice; `None` when all have ended. An error ends the whole answer.
    pub async fn next(&mut self) -> Option<Result<Indexed, ApiError>> {
        while self.open > 0 {
            let output = match self.backlog.pop_front() {
                Some(output) => Some(output),
                None => self.outputs.recv().await,
            };
            let Some((index, output)) = output else { return Some(Err(gone())) };
            if let Some(piece) = self.take(index, output) {
                return Some(piece);
            }
        }
        None
    }

    /// As [`Self::next`], but only what is there already.
    pub fn next_now(&mut self) -> Option<Result<Indexed, ApiError>> {
        while self.open > 0 {
            let (index, output) = self.backlog.pop_front().or_else(|| self.outputs.try_recv().ok())?;
            if let Some(piece) = self.take(index, output) {
                return Some(piece);
            }
        }
        None
    }

    fn take(&mut self, index: u32, output: Output) -> Option<Result<Indexed, ApiError>> {
        if matches!(output, Output::Token { .. } | Output::Finished(_))
            && let Err(refused) = self.follow(index)
        {
            return Some(Err(refused));
        }
        let choice = &mut self.choices[index as usize];
        let piece = choice.take(output).transpose()?;
        self.open -= usize::from(choice.ended());
        Some(piece.map(|piece| (index, piece)))
    }

    /// Lets the choices go that waited for this one.
    fn follow(&mut self, index: u32) -> Result<(), ApiError> {
        let n = self.door.n;
        let ahead = &mut self.door.ahead[(index / n) as usize];
        if std::mem::take(ahead) {
            let first = index / n * n;
            let sender = self.sender();
            (first + 1..first + n).try_for_each(|index| self.submit_choice(index, sender.clone()))?;
        }
        Ok(())
    }

    /// The choice that speaks for the prompt of choice `index`.
    pub fn first_of(&self, index: u32) -> &Choice {
        &self.choices[(index / self.door.n * self.door.n) as usize]
    }

    pub fn ended(&self) -> bool {
        self.open == 0
    }

    /// Tokens of all choices so far. A prompt counts once, whatever n is.
    pub fn usage(&self) -> Usage {
        let firsts = || self.choices.iter().step_by(self.door.n as usize);
        let prompt = firsts().map(Choice::prompt_tokens).fold(0, u32::saturating_add);
        let generated = self.choices.iter().map(Choice::generated_tokens).fold(0, u32::saturating_add);
        let mut usage = Usage::new(prompt, generated);
        let thought: Option<u32> = self.choices.iter().map(Choice::thought_tokens).sum();
        usage.completion_tokens_details = thought.map(|reasoning_tokens| CompletionTokensDetails { reasoning_tokens });
        if self.plan.shape.prompt_details {
            let cached_tokens = firsts().map(Choice::cached_tokens).fold(0, u32::saturating_add);
            usage.prompt_tokens_details = Some(PromptTokensDetails { cached_tokens });
        }
        usage
    }

    /// Where the time went, of an answer that is one sequence.
    pub fn metrics(&self) -> Option<RequestMetrics> {
        match &self.choices[..] {
            [only] if self.plan.shape.metrics => Some(only.metrics()),
            _ => None,
        }
    }
}

pub fn gone() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "The engine ended before the answer did.")
}
