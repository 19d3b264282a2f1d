//! The whole process, driven over sockets. One module per behaviour.

#[cfg(test)]
mod harness;

#[cfg(test)]
mod bodies;
#[cfg(test)]
mod bridge;
#[cfg(test)]
mod cancel;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod generic;
#[cfg(test)]
mod headers;
#[cfg(test)]
mod held;
#[cfg(test)]
mod keepalive;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod models_context;
#[cfg(test)]
mod models_plain;
#[cfg(test)]
mod models_quota;
#[cfg(test)]
mod models_rules;
#[cfg(test)]
mod proxies;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod shutdown;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod uploads;
