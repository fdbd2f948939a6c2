//! A customer, in requests and in PostgreSQL, whose constraints say what a customer may be.

use serde::Deserialize;
use serde_json::{Map, Number, Value};
use service::problem::Problem;
use tokio_postgres::Transaction;

/// What of a customer is written by people.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Customer {
    name: String,
    email: String,
    #[serde(default)]
    city: Option<String>,
    #[serde(default = "nothing")]
    credit_limit: Number,
}

fn nothing() -> Number {
    0.into()
}

impl Customer {
    /// Inserts it; returns its id, and all of it as JSON.
    pub(crate) async fn insert(
        &self,
        transaction: &Transaction<'_>,
    ) -> Result<(i64, String), Problem> {
        let statement = "INSERT INTO customer (name, email, city, credit_limit) VALUES ($1, $2, $3, $4::text::numeric)
             RETURNING id, to_jsonb(customer)::text";
        let limit = self.credit_limit.to_string();
        let row = transaction
            .query_one(statement, &[&self.name, &self.email, &self.city, &limit])
            .await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Makes the customer of this id like it; returns all of it as JSON.
    pub(crate) async fn replace(
        &self,
        id: i64,
        transaction: &Transaction<'_>,
    ) -> Result<String, Problem> {
        let statement =
            "UPDATE customer SET name = $2, email = $3, city = $4, credit_limit = $5::text::numeric
             WHERE id = $1 RETURNING to_jsonb(customer)::text";
        let limit = self.credit_limit.to_string();
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&id, &self.name, &self.email, &self.city, &limit];
        let row = transaction.query_opt(statement, &values).await?;
        Ok(row.ok_or_else(|| missing(id))?.get(0))
    }

    /// The customer of this id with these changes (a merge patch, RFC 7396). Nobody else changes it until the end of the
    /// transaction.
    pub(crate) async fn changed(
        id: i64,
        changes: Map<String, Value>,
        transaction: &Transaction<'_>,
    ) -> Result<Customer, Problem> {
        let query = "SELECT jsonb_build_object('name', name, 'email', email, 'city', city, 'credit_limit', credit_limit)::text
             FROM customer WHERE id = $1 FOR NO KEY UPDATE";
        let row = transaction.query_opt(query, &[&id]).await?;
        let row = row.ok_or_else(|| missing(id))?;
        let wrong = |wrong: serde_json::Error| {
            Problem::unprocessable(format!("the customer would not be one: {wrong}"))
        };
        let mut fields: Map<String, Value> = serde_json::from_str(row.get(0)).map_err(wrong)?;
        fields.extend(changes);
        serde_json::from_value(Value::Object(fields)).map_err(wrong)
    }
}

/// 404
pub(crate) fn missing(id: i64) -> Problem {
    Problem::not_found(format!("there is no customer {id}"))
}
