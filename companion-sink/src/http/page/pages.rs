//! What the pages are made of, and for whom.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::config::{Kind, Loaded};
use crate::dlq::Dlq;
use crate::effect::listing::EffectSinks;
use crate::history::table::Histories;
use crate::http::access::Access;
use crate::http::page::layout::{self, Frame, PageAnswer, PageHead, Section};
use crate::http::page::login::session::{LoggedIn, Sessions};
use crate::http::problem::Problem;
use crate::http::state::ServerState;
use crate::http::statistics::AskedFigures;
use crate::http::topics::TopicState;
use crate::sink::mongo_view::reading::Views;

/// What the requests need.
pub(crate) struct Pages {
    pub(crate) config: Loaded,
    pub(crate) access: Access,
    pub(crate) sessions: Sessions,
    pub(crate) shared: ServerState,
    pub(crate) histories: Arc<Histories>,
    pub(crate) dlq: Arc<Dlq>,
    pub(crate) effects: Arc<EffectSinks>,
    pub(crate) figures: Arc<AskedFigures>,
    pub(crate) topics: Arc<TopicState>,
    pub(crate) views: Views,
}

impl Pages {
    /// The flow shows what `/v1/status` does, to whom that does.
    pub(crate) fn is_flow_open(&self) -> bool {
        self.access.token.is_empty()
    }

    /// The names of the sinks of some kinds.
    pub(crate) fn sinks_of(&self, is_meant: impl Fn(&Kind) -> bool) -> Vec<&str> {
        let sinks = self.config.sinks.iter();
        let meant = sinks.filter(|(_, sink)| is_meant(&sink.kind));
        meant.map(|(name, _)| name.as_str()).collect()
    }

    /// The parts that this configuration has.
    fn sections(&self, is_logged_in: bool) -> Vec<Section> {
        if !is_logged_in {
            let flow = Some(Section::Flow).filter(|_| self.is_flow_open());
            return flow.into_iter().collect();
        }
        let has = |is_meant: fn(&Kind) -> bool| !self.sinks_of(is_meant).is_empty();
        [
            (Section::Flow, true),
            (
                Section::History,
                has(|kind| matches!(kind, Kind::MongoHistory(_))),
            ),
            (
                Section::Models,
                has(|kind| matches!(kind, Kind::MongoView(_))),
            ),
            (
                Section::Statistics,
                has(|kind| matches!(kind, Kind::Statistics(_))),
            ),
            (Section::DeadLetters, has(keeps_refused)),
            (Section::Effects, has(|kind| kind.effect().is_some())),
            (Section::Topics, true),
        ]
        .into_iter()
        .filter_map(|(section, is_there)| is_there.then_some(section))
        .collect()
    }

    fn frame<'f>(&'f self, who: Option<&'f LoggedIn>, notice: Option<String>) -> Frame<'f> {
        Frame {
            instance: &self.config.name,
            sections: self.sections(who.is_some()),
            person: who.and_then(|who| who.person.as_deref()),
            form_secret: who.map(|who| who.form_secret.as_str()),
            notice,
        }
    }

    /// A page for who asks.
    pub(crate) fn page(
        &self,
        who: Option<&LoggedIn>,
        head: &PageHead,
        template: &str,
        content: &Value,
    ) -> PageAnswer {
        let notice = who.and_then(|who| self.sessions.take_notice(who));
        layout::page(&self.frame(who, notice), head, template, content)
    }

    /// What went wrong, as a page; none where not even that can be made.
    pub(crate) fn problem(&self, who: Option<&LoggedIn>, problem: &Problem) -> PageAnswer {
        let title = match problem.status {
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "Refused",
            _ => "That did not work",
        };
        let content = json!({
            "status": problem.status.as_u16(), "title": problem.title, "detail": problem.detail,
            "code": problem.code.map(|code| code.to_string()),
        });
        let head = PageHead::new(Section::Login, title);
        layout::page(&self.frame(who, None), &head, "error.html", &content)
    }
}

/// Whether sinks of a kind keep refused events aside.
pub(crate) fn keeps_refused(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Postgres(_) | Kind::MongoHistory(_) | Kind::MongoView(_)
    )
}
