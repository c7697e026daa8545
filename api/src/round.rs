//! What waits for the replicas: sync writes (R3) and strong reads (R8), together in rounds on one connection.
//!
//! A round goes out in one pipeline: the reads; one conditional script with the writes, which without any is the barrier
//! for the reads before it; then the question who has it, `ROLE`, `WAIT`, `ROLE`, `GET fence`. Only when every replica
//! in sync has it, and the epoch is still the same, is anything answered. Until then the question is asked again. What
//! cannot be confirmed any more under this epoch ends the connection: writes are settled under the next view, reads are
//! asked again. The connection must end then, because its marker must not be written again before that.

use std::sync::Arc;

use failover::confirm::{Cause, Durability, Failure, Next, classify};
use wire::{Command, Reply, cmd};

use crate::flight::{Inquiry, Part, Round, Sent};
use crate::lane::{BATCH_WRITES, End, Session};
use crate::queue::{Acknowledged, Written};
use crate::view::View;

impl Session<'_> {
    /// Sends the next round, if there is something to send and none is under way.
    pub(crate) fn push_round(&mut self, view: &Arc<View>, out: &mut Vec<Command>) {
        if let Some(round) = &mut self.flight.round {
            if std::mem::take(&mut round.look_again) {
                let questions = round.inquiry.questions();
                self.push_inquiry(questions, out);
            }
            return;
        }
        let reads = self.pool.queue.take_strong(BATCH_WRITES);
        let sync = self.pool.options.durability == Durability::Sync;
        let batch = if sync && view.admits() { self.next_batch(view) } else { None };
        if reads.is_empty() && batch.is_none() {
            return;
        }
        for read in &reads {
            out.push(cmd!["GET", &read.key]);
            self.flight.sent.push_back(Sent::Part(Part::Read));
        }
        out.push(self.script(view, batch.as_ref().map_or(&[], |batch| &batch.writes)));
        self.flight.sent.push_back(Sent::Part(Part::Script));
        let inquiry = Inquiry::new(view.clone());
        self.push_inquiry(inquiry.questions(), out);
        self.flight.round = Some(Round {
            view: view.clone(),
            answers: Vec::with_capacity(reads.len()),
            reads,
            batch,
            executed: false,
            answered: false,
            inquiry,
            look_again: false,
        });
    }

    fn push_inquiry(&mut self, questions: Vec<Command>, out: &mut Vec<Command>) {
        for question in questions {
            out.push(question);
            self.flight.sent.push_back(Sent::Part(Part::Inquiry));
        }
    }

    /// Takes the next answer of the round.
    pub(crate) fn handle_part(&mut self, part: Part, reply: Reply) -> Result<(), End> {
        match part {
            Part::Read => {
                let round = self.flight.round.as_mut().ok_or(End::Unexpected)?;
                round.answers.push(reply);
                Ok(())
            }
            Part::Script => self.handle_script(&reply),
            Part::Inquiry => self.handle_inquiry(reply),
        }
    }

    fn handle_script(&mut self, reply: &Reply) -> Result<(), End> {
        let round = self.flight.round.as_mut().ok_or(End::Unexpected)?;
        round.answered = true;
        let executed = match round.batch.take() {
            Some(batch) => {
                let applied = self.applied(batch, reply)?;
                let executed = applied.is_some();
                if let Some(round) = &mut self.flight.round {
                    round.batch = applied;
                }
                executed
            }
            None => self.barrier_written(reply),
        };
        if let Some(round) = &mut self.flight.round {
            round.executed = executed;
        }
        Ok(())
    }

    /// Whether the script without writes was executed. If not, the server has to show first that it takes writes.
    fn barrier_written(&mut self, reply: &Reply) -> bool {
        match reply {
            Reply::Int(0) => return true,
            Reply::Error(text) => match classify(text) {
                Failure::Definite(cause) => self.doubt(cause, text),
                Failure::WrongType | Failure::Indeterminate => self.doubt(Cause::Unfit, text),
            },
            Reply::Int(_) | Reply::Array(_) | Reply::Nil | Reply::Status(_) | Reply::Bulk(_) => {
                self.doubt(Cause::Unfit, "an answer that does not fit the question");
            }
        }
        false
    }

    fn handle_inquiry(&mut self, reply: Reply) -> Result<(), End> {
        let round = self.flight.round.as_mut().ok_or(End::Unexpected)?;
        let Some(next) = round.inquiry.answered(reply) else { return Ok(()) };
        self.pool.waits_for(round.view.epoch, &round.inquiry.behind);
        self.pool.metrics.looks.inc();
        match next {
            // Nothing was executed: the reads are dropped unanswered, and so are asked again.
            _ if !round.executed => self.flight.round = None,
            Next::Acknowledge => {
                if let Some(round) = self.flight.round.take() {
                    self.acknowledge(round);
                }
            }
            // Its requesters were told at their deadlines that it is open; nothing more can be done for them.
            Next::WaitFor(_) if !round.wanted() => self.flight.round = None,
            Next::WaitFor(_) => round.look_again = true,
            Next::Settle => return Err(End::Unconfirmed),
        }
        Ok(())
    }

    fn acknowledge(&self, round: Round) {
        for (read, reply) in round.reads.into_iter().zip(round.answers) {
            self.answer_read(read, round.view.clone(), reply);
        }
        for write in round.batch.into_iter().flat_map(|batch| batch.writes) {
            let _ = write.done.send(Written::Applied(Acknowledged::by_all(&round.view)));
        }
    }
}
