//! dgx-gateway: the proxy core.
//!
//! It knows listeners, routes, upstreams, attempts, bodies and filters, and no protocol of language models: those
//! come as plug-ins from `filters/`, named in one file.
//!
//! | Module | Does |
//! |---|---|
//! | [`config`] | reads the configuration file and checks what the core owns |
//! | [`data_dir`] | sees to it that one gateway uses a data directory |
//! | [`plugins`] | makes entries of a table from the kinds that plug-ins export |
//! | [`registry`] | the only file that names plug-ins |
//! | [`world`] | builds routes and services from one configuration |
//! | [`route`] | finds the route of a request |
//! | [`proxy`] | the phases of a request |
//! | [`upstream`] | addresses, peers, services inside the process |
//! | [`reload`] | puts a changed configuration into use while requests run |
//! | `reply` | turns an error into a response |
//! | [`admin`] | metrics listener |
//! | [`telemetry`] | logs and the core's metrics |
//! | [`server`] | assembles the process and runs it |
//! | [`tls`] | certificate and key of the public listener |
//! | [`sockets`] | opens the listening sockets, or takes those that were handed over |
//! | [`notify`] | tells the service manager how the process is |
//! | [`upgrade`] | hands the sockets over to another process |
//! | [`shutdown`] | ends it without cutting what runs |

pub mod admin;
pub mod config;
pub mod data_dir;
pub mod notify;
pub mod plugins;
pub mod proxy;
pub mod registry;
pub mod reload;
mod reply;
pub mod route;
pub mod server;
pub mod shutdown;
pub mod sockets;
pub mod telemetry;
pub mod tls;
pub mod upgrade;
pub mod upstream;
pub mod world;
