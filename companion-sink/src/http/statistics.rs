//! The questions of `crate::statistics` over HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State as Extract};
use axum::routing::get;
use axum::{Json, Router};
use change::trouble::Trouble;
use serde_json::json;

use crate::config::{Kind, Loaded, StatisticsSettings};
use crate::delivery::watermark::Complete;
use crate::error::{Code, Result, misconfigured};
use crate::http::parameters::Parameters;
use crate::http::problem::{JsonAnswer, Problem};
use crate::statistics::count::design::Design;
use crate::statistics::kept::shelf::Shelf;
use crate::statistics::question::Question;

/// The sinks of figures that can be asked.
pub(crate) struct AskedFigures {
    shelf: Shelf,
    pub(crate) sinks: BTreeMap<String, (StatisticsSettings, Design)>,
}

impl AskedFigures {
    /// Those that are configured.
    pub(crate) fn new(config: &Loaded, shelf: &Shelf) -> Result<AskedFigures> {
        let mut sinks = BTreeMap::new();
        for (name, sink) in &config.sinks {
            if let Kind::Statistics(settings) = &sink.kind {
                let design = Design::new(settings)
                    .map_err(|why| misconfigured(why, "Change where of that sink."))?;
                sinks.insert(name.clone(), (settings.clone(), design));
            }
        }
        Ok(AskedFigures {
            shelf: shelf.clone(),
            sinks,
        })
    }
}

/// What asks for figures.
pub(crate) fn router(figures: Arc<AskedFigures>) -> Router {
    Router::new()
        .route("/v1/statistics/{sink}", get(statistics))
        .with_state(figures)
}

/// What a sink of figures answers to a question.
pub(crate) async fn statistics(
    Extract(figures): Extract<Arc<AskedFigures>>,
    Path(sink): Path<String>,
    Parameters(parameters): Parameters<Vec<(String, String)>>,
) -> JsonAnswer {
    // Reading the store waits for the disk.
    let answer = tokio::task::spawn_blocking(move || answer(&figures, &sink, &parameters));
    answer.await.unwrap_or_else(|error| {
        Err(Trouble::new(Code::TargetRefuses, error.to_string(), "Report this.").into())
    })
}

fn answer(figures: &AskedFigures, sink: &str, parameters: &[(String, String)]) -> JsonAnswer {
    let Some((settings, design)) = figures.sinks.get(sink) else {
        return Err(Problem::no_figures(sink));
    };
    let parameters = parameters.iter();
    let parameters = parameters.map(|(name, value)| (name.as_str(), value.as_str()));
    let question = Question::parse(design, parameters)?;
    let open = figures.shelf.get(sink).ok_or_else(|| {
        Trouble::new(
            Code::Unreachable,
            format!("sink {sink} has not opened its store"),
            "Look at its state; ask again.",
        )
    })?;
    let complete = open.complete();
    let page = question.ask(design, &open.store.snapshot()?)?;
    Ok(Json(json!({
        "sink": sink,
        "period": settings.period.name(),
        "time_zone": settings.time_zone.name(),
        "columns": settings.columns(),
        "rows": page.rows,
        "next": page.next,
        "complete_up_to": complete.as_ref().map(Complete::json),
    })))
}
