//! A list of all accounts: each owner gives a page of its own, and the pages become one. It has all accounts, or there is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Bytes, to_bytes};
use axum::http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use service::problem::Problem;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::account::Account;
use crate::owners::Owners;
use crate::partition::{Partitions, not_here};
use crate::peers::{PATIENCE, PAUSE, no_owner, send};

const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;
const PAGE_BYTES_MAX: usize = 16 << 20;

/// Which accounts are shown.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Those behind this id.
    after: Option<String>,
    limit: Option<usize>,
    /// What one instance asks another one: the accounts of these partitions, `0,3`.
    partitions: Option<String>,
}

/// Accounts in the order of their ids.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    accounts: Vec<Account>,
    /// What the next request has as `after`; none where nothing follows.
    next: Option<String>,
}

/// How many rows an answer has.
pub(crate) fn limit(wanted: Option<usize>) -> Result<usize, Problem> {
    match wanted.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Problem::unprocessable(format!(
            "limit is to be from 1 to {LIMIT_MAX}"
        ))),
    }
}

/// A page of all accounts, or of some partitions.
pub(crate) async fn accounts(
    owners: &Arc<Owners>,
    partitions: &Arc<Partitions>,
    wanted: Wanted,
) -> Result<Page, Problem> {
    limit(wanted.limit)?;
    if let Some(list) = &wanted.partitions {
        let numbers: Result<Vec<i32>, _> = list.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|_| Problem::unprocessable("partitions are numbers"))?;
        return of_here(partitions, &wanted, &numbers).await;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        match of_all(owners, partitions, &wanted).await {
            Err(problem) if problem.status == StatusCode::MISDIRECTED_REQUEST => {
                if Instant::now() > until {
                    return Err(problem_of(owners));
                }
            }
            done => return done,
        }
        sleep(PAUSE).await;
        owners.refresh().await;
    }
}

/// A partition that nobody has, or that its owner does not serve yet.
fn problem_of(owners: &Owners) -> Problem {
    let all = 0..owners.topics.partitions;
    let without = all
        .clone()
        .find(|partition| owners.of(*partition).is_none());
    no_owner(without.unwrap_or(all.start))
}

async fn of_all(
    owners: &Arc<Owners>,
    partitions: &Arc<Partitions>,
    wanted: &Wanted,
) -> Result<Page, Problem> {
    let mut by_owner: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for partition in 0..owners.topics.partitions {
        let owner = owners.of(partition).ok_or_else(not_here)?;
        by_owner.entry(owner).or_default().push(partition);
    }
    let mut asked = JoinSet::new();
    for (owner, numbers) in by_owner {
        let (partitions, wanted) = (Arc::clone(partitions), wanted.clone());
        let is_me = owner == owners.me;
        asked.spawn(async move {
            match is_me {
                true => of_here(&partitions, &wanted, &numbers).await,
                false => of_there(&owner, &wanted, &numbers).await,
            }
        });
    }
    let mut pages = Vec::new();
    while let Some(page) = asked.join_next().await {
        pages.push(page.map_err(|_| not_here())??);
    }
    Ok(merge(pages, limit(wanted.limit)?))
}

/// Those of partitions that this instance has.
async fn of_here(
    partitions: &Partitions,
    wanted: &Wanted,
    numbers: &[i32],
) -> Result<Page, Problem> {
    let limit = limit(wanted.limit)?;
    let after = wanted.after.as_deref().unwrap_or_default();
    let mut pages = Vec::new();
    for number in numbers {
        let view = partitions.look(*number).await?;
        let mut accounts = view.accounts(after, limit + 1).map_err(Problem::broken)?;
        let is_more = accounts.len() > limit;
        accounts.truncate(limit);
        let last = accounts.last().map(|last| last.id.as_str().to_owned());
        let next = last.filter(|_| is_more);
        pages.push(Page { accounts, next });
    }
    Ok(merge(pages, limit))
}

/// Those of partitions that another instance has.
async fn of_there(owner: &str, wanted: &Wanted, numbers: &[i32]) -> Result<Page, Problem> {
    let numbers: Vec<String> = numbers.iter().map(i32::to_string).collect();
    let after = wanted.after.as_deref();
    let after = after.map_or_else(String::new, |after| format!("after={after}&"));
    let limit = limit(wanted.limit)?;
    let path = format!(
        "/accounts?{after}limit={limit}&partitions={}",
        numbers.join(",")
    );
    let request = Request::builder().method(Method::GET).uri(path).body(());
    // An id that is none has no place in a path.
    let request = request.map_err(|_| Problem::unprocessable("after is to be an id"))?;
    let answer = send(owner, &request.into_parts().0, Bytes::new()).await;
    if answer.status() != StatusCode::OK {
        return Err(not_here());
    }
    let body = to_bytes(answer.into_body(), PAGE_BYTES_MAX).await;
    let page = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok());
    page.ok_or_else(not_here)
}

/// One page of several: each has all of its accounts up to its last one, so the result has them up to the first end.
fn merge(pages: Vec<Page>, limit: usize) -> Page {
    let mut is_more = pages.iter().any(|page| page.next.is_some());
    let mut accounts: Vec<Account> = pages.into_iter().flat_map(|page| page.accounts).collect();
    accounts.sort_by(|one, other| one.id.cmp(&other.id));
    is_more |= accounts.len() > limit;
    accounts.truncate(limit);
    let last = accounts.last().map(|last| last.id.as_str().to_owned());
    Page {
        next: last.filter(|_| is_more),
        accounts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[&str], is_more: bool) -> Page {
        let account = |id: &&str| {
            let json = serde_json::json!({"id": id, "version": 1, "created_at": "2026-11-28T00:00:00Z", "changed_at": "2026-11-28T00:00:00Z", "name": "x"});
            serde_json::from_value(json).expect("an account")
        };
        Page {
            accounts: ids.iter().map(account).collect(),
            next: is_more.then(|| ids[ids.len() - 1].to_owned()),
        }
    }

    fn merged(pages: Vec<Page>, limit: usize) -> (Vec<String>, Option<String>) {
        let page = merge(pages, limit);
        let ids = page
            .accounts
            .iter()
            .map(|account| account.id.as_str().to_owned());
        (ids.collect(), page.next)
    }

    #[test]
    fn a_page_ends_where_one_of_its_parts_may_have_more() {
        let one = page(&["a", "d"], true);
        let other = page(&["b", "c", "e"], false);
        let (ids, next) = merged(vec![one, other], 2);
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(next.as_deref(), Some("b"));
        let (ids, next) = merged(vec![page(&["a"], false), page(&[], false)], 2);
        assert_eq!((ids, next), (vec!["a".to_owned()], None));
    }
}
