//! The Kafka thread's loop: takes work, opens and renders it, and sends what comes out.
//!
//! Records go out at once while few are on their way; else they gather until something comes back, so that requests grow
//! with the load instead of their number (`docs/decisions/0006`).

use std::sync::atomic::Ordering;
use std::time::Instant;

use change::event::render_options::RenderOptions;
use change::event::renderer::Renderer;
use change::wal::body::Body;
use change::wal::message;
use crossbeam_channel::{Receiver, TryRecvError};

use super::broker::Broker;
use super::in_flight::gathering::{Gather, Gathering};
use super::routing::Router;
use super::stop::Stop;
use crate::clock::unix_us;
use crate::session::Session;
use crate::trouble::{Failure, out_of_memory, undecodable};
use crate::work::{Beginning, Work};

/// Items taken from the channel before delivery reports are served again.
const ITEMS_PER_ROUND: usize = 512;
/// A buffer that one large row made larger is given back to this.
const KEPT_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Works for one session, until that is over.
pub(super) struct Shipper<'a, B> {
    session: &'a Session,
    router: Router<'a, B>,
    gathering: Gathering,
    renderer: Option<Renderer>,
    body: Vec<u8>,
}

impl<'a, B: Broker> Shipper<'a, B> {
    pub(super) fn new(session: &'a Session, router: Router<'a, B>) -> Shipper<'a, B> {
        Shipper {
            session,
            router,
            gathering: Gathering::default(),
            renderer: None,
            body: Vec::new(),
        }
    }

    /// Runs until the board says stop or the session fails.
    pub(super) fn run(&mut self, work: &Receiver<Work>) {
        let failure = loop {
            match self.round(work) {
                Ok(()) => {}
                Err(Stop::Over) => break None,
                Err(Stop::OutOfMemory) => break Some(Failure::Halt(out_of_memory())),
                Err(Stop::Undecodable(why)) => break Some(Failure::Halt(undecodable(&why))),
            }
        };
        if let Some(failure) = failure {
            self.session.board.fail(failure);
        }
        self.router.out().close();
    }

    fn round(&mut self, work: &Receiver<Work>) -> Result<(), Stop> {
        let out = self.router.out();
        out.serve()?;
        let (is_busy, records) = out.load();
        let timeout_ms = match self.gathering.wait(is_busy, records, Instant::now()) {
            Gather::No => {
                self.session.board.gathering(false);
                return self.take_round(work);
            }
            Gather::UntilAnswer => None,
            Gather::ForMs(timeout_ms) => Some(timeout_ms),
        };
        self.session.board.gathering(true);
        self.router.out().wait_for_answer(timeout_ms);
        Ok(())
    }

    /// Takes what there is; if that is nothing, commits or sleeps.
    fn take_round(&mut self, work: &Receiver<Work>) -> Result<(), Stop> {
        if self.take_all(work)? {
            self.gathering.took_work(Instant::now());
            return Ok(());
        }
        self.gathering.found_none();
        if let Some(renderer) = &mut self.renderer {
            let snapshots = self.session.host.snapshots;
            renderer.forget_snapshots(&|table| snapshots.is_snapshot(table));
        }
        if self.router.out().may_commit() {
            return self.router.out().commit();
        }
        let wanted = &self.session.board.work_wanted;
        wanted.ask();
        if work.is_empty() {
            self.router.out().wait_for_work();
        }
        wanted.withdraw();
        Ok(())
    }

    /// Produces what is in the channel now, up to a round of it; whether there was anything.
    fn take_all(&mut self, work: &Receiver<Work>) -> Result<bool, Stop> {
        for taken in 0..ITEMS_PER_ROUND {
            match work.try_recv() {
                Ok(item) => {
                    self.take(item)?;
                    self.session.board.room_made();
                    if self.session.is_over() {
                        return Err(Stop::Over);
                    }
                }
                Err(TryRecvError::Empty) => return Ok(taken > 0),
                Err(TryRecvError::Disconnected) => return Err(Stop::Over),
            }
        }
        Ok(true)
    }

    fn take(&mut self, item: Work) -> Result<(), Stop> {
        match item {
            Work::Known(known) => {
                self.router.know(*known);
                Ok(())
            }
            Work::Begin(beginning) => {
                self.begin(&beginning);
                Ok(())
            }
            Work::Chunk(bytes) => {
                let mut body = std::mem::take(&mut self.body);
                let opened = message::read(&bytes).and_then(|chunk| chunk.body_into(&mut body));
                let done = opened.map_err(Stop::from).and_then(|()| self.render(&body));
                body.clear();
                body.shrink_to(KEPT_BUFFER_BYTES);
                self.body = body;
                self.dealt_with(bytes.len());
                done
            }
            Work::Body(body) => {
                let done = self.render(&body);
                self.dealt_with(body.len());
                done
            }
            Work::End => {
                let renderer = self.renderer.as_ref();
                let found = renderer.map_or(0, Renderer::rendered);
                self.router.end(found, renderer.and_then(Renderer::judged))
            }
        }
    }

    fn dealt_with(&self, bytes: usize) {
        let queued_bytes = &self.session.board.queued_bytes;
        queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    fn begin(&mut self, beginning: &Beginning) {
        let commit = beginning.commit;
        match &mut self.renderer {
            Some(renderer) => renderer.begin(commit),
            None => {
                let window_bytes = self.session.settings.memory_bytes / 4;
                let controls = self.router.controls();
                self.renderer = Some(Renderer::new(commit, window_bytes, controls));
            }
        }
        self.router.begin(beginning);
    }

    fn render(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let body = Body::parse(bytes)?;
        let Some(mut renderer) = self.renderer.take() else {
            return Err(Stop::Undecodable("rows before a beginning".to_owned()));
        };
        let (session, router) = (self.session, &mut self.router);
        let (withheld, commit_lsn) = (router.withheld(), router.out().commit_lsn());
        let snapshots = session.host.snapshots;
        let circumstances = RenderOptions {
            sent_us: unix_us(),
            tombstones: session.settings.tombstones,
            truncates: session.settings.truncates,
            session: session.number,
            is_snapshot: &|table| snapshots.is_snapshot(table),
            is_withheld: &|topic| withheld.reason(topic, commit_lsn).is_some(),
        };
        let done = renderer.render(&body, &circumstances, &mut |event| router.send(event));
        self.renderer = Some(renderer);
        done
    }
}
