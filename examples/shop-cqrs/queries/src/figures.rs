//! Revenue by day. A sink of kind statistics keeps it exactly, also where an order is deleted or moved to another day; to add it up from
//! documents at each question would take longer with each order.

use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use serde_json::Value;
use service::problem::Problem;
use service::setting;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Where companion-sink answers, and its token.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    agent: ureq::Agent,
    url: String,
    token_file: String,
}

impl Figures {
    /// As the variables `FIGURES_URL` and `FIGURES_TOKEN_FILE` have it.
    pub(crate) fn from_environment() -> Figures {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        Figures {
            agent: config.timeout_global(Some(TIMEOUT)).build().new_agent(),
            url: format!("{}/v1/statistics/revenue", setting::required("FIGURES_URL")),
            token_file: setting::required("FIGURES_TOKEN_FILE"),
        }
    }

    fn ask(&self, question: &str) -> Result<(StatusCode, Value), String> {
        let token = std::fs::read_to_string(&self.token_file);
        let token = token.map_err(|error| format!("{}: {error}", self.token_file))?;
        let url = format!("{}?{question}", self.url);
        let request = self.agent.get(&url);
        let request = request.header("Authorization", format!("Bearer {}", token.trim()));
        let mut answer = request.call().map_err(|error| error.to_string())?;
        let body = answer
            .body_mut()
            .read_json()
            .map_err(|error| error.to_string())?;
        Ok((answer.status(), body))
    }
}

/// `?from=2026-11-01&to=2026-12-01`: the figures as companion-sink has them, and what it says of a wrong question.
pub(crate) async fn revenue(
    State(figures): State<Figures>,
    RawQuery(question): RawQuery,
) -> Result<Json<Value>, Problem> {
    let question = question.unwrap_or_default();
    let asked = tokio::task::spawn_blocking(move || figures.ask(&question)).await;
    let asked = asked.unwrap_or_else(|error| Err(error.to_string()));
    let down = |why: &dyn std::fmt::Display| Problem::unavailable("companion-sink", why);
    match asked.map_err(|why| down(&why))? {
        (StatusCode::OK, answer) => Ok(Json(answer)),
        (StatusCode::BAD_REQUEST, wrong) => {
            let what =
                [&wrong["title"], &wrong["detail"]].map(|text| text.as_str().unwrap_or_default());
            Err(Problem::new(StatusCode::BAD_REQUEST, what.join(". ")))
        }
        (status, answer) => Err(down(&format!("{status}: {answer}"))),
    }
}
