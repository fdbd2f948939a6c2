//! Brokers over TLS and SASL while PostgreSQL itself serves TLS: what is configured works, what is wrong is told and
//! put right without a writer noticing, and no secret is ever shown (G6, G10, G11).

mod logins;
mod properties_file;
mod rights;
mod secure_bed;
mod tls;
