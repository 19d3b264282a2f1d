//! The whole process, driven over sockets. One module per behaviour.

#[cfg(test)]
mod harness;

#[cfg(test)]
mod aborts;
#[cfg(test)]
mod alive;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod augment;
#[cfg(test)]
mod billing;
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod bridge;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod cancel;
#[cfg(test)]
mod codings;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod cors;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod data;
#[cfg(test)]
mod dialects;
#[cfg(test)]
mod early;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod fair;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod generic;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod handover;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod held;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod keepalive;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod models_context;
#[cfg(test)]
mod models_plain;
#[cfg(test)]
mod models_quota;
#[cfg(test)]
mod models_rules;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod proxies;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod service;
#[cfg(test)]
mod settled;
#[cfg(test)]
mod shared_budgets;
#[cfg(test)]
mod shared_limits;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod tenant_config;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod uploads;
