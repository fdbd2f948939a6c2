//! `companion-sink page`: where the pages of the running instance are, with a link that logs in.

use std::net::SocketAddr;

use hyper::Method;

use crate::cli::status::ask;
use crate::config::Loaded;
use crate::error::{Result, misconfigured};
use crate::http::access::own_token;
use crate::terminal::print;

/// Prints the link.
pub(crate) async fn run(config: &Loaded, json: bool) -> Result<()> {
    let listen = config.http.listen.as_str();
    if listen.is_empty() {
        return Err(misconfigured(
            "[http] listen is empty",
            "Set it to the address of the running instance.",
        ));
    }
    let token = match &config.token {
        None => own_token::read(config).unwrap_or_default(),
        Some(token) => token.reveal().clone(),
    };
    let answer = ask(listen, Method::POST, "/v1/login-codes", &token).await?;
    let code = answer["code"].as_str().ok_or_else(|| {
        misconfigured(
            format!("{listen} makes no code"),
            "Start the version of companion-sink there that this is.",
        )
    })?;
    let link = format!("http://{}/login?code={code}", reachable(listen));
    match json {
        true => print(&format!(
            "{}\n",
            serde_json::json!({ "link": link, "seconds": answer["seconds"] })
        )),
        false => print(&format!("{link}\n")),
    }
    if !json {
        eprintln!("It logs in once, within {} s.", answer["seconds"]);
    }
    Ok(())
}

/// An address to which a browser of this machine can go.
fn reachable(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_can_go_there() {
        assert_eq!(reachable("0.0.0.0:8480"), "localhost:8480");
        assert_eq!(reachable("[::]:1"), "localhost:1");
        assert_eq!(reachable("127.0.0.1:8480"), "127.0.0.1:8480");
        assert_eq!(reachable("cdc.example.org:80"), "cdc.example.org:80");
    }
}
