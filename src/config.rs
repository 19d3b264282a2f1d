//! The configuration file: raw shapes, and the checked values that the rest of the core works with.
//!
//! [`Config::load`] reads the file, expands `${NAME}`, lays the environment over it and reports every problem
//! at once. Keys that belong to plug-ins stay raw in [`Config::sections`]; their services check them.

mod route;
mod server;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::yaml;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_yaml::{Mapping, Value};

pub use self::route::{FilterEntry, FixedEnd, RouteEnd, RouteFile, RouteSpec, UpgradeProtocol};
pub use self::server::{AllowedOrigins, CorsFile, LogFile, LogFormat, LogSettings, Server, ServerFile};

/// Where the configuration is looked for when nothing else is said.
pub const DEFAULT_PATH: &str = "conf/gateway.yaml";

/// What the command line says; it wins over environment and file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`.
    pub config: Option<PathBuf>,
}

/// The checked configuration of the core, and the raw sections of the plug-ins.
#[derive(Debug)]
pub struct Config {
    /// Listeners, limits of bodies and time, draining.
    pub server: Server,
    /// Logging.
    pub log: LogSettings,
    /// Directory for state.
    pub data_dir: PathBuf,
    /// Routes of the file, before those that are built in.
    pub routes: Vec<RouteSpec>,
    /// Top-level keys of plug-ins.
    pub sections: Mapping,
    /// The file that was read, if there was one.
    pub file: Option<ConfigFile>,
}

/// A file that was read; its text is kept to find the lines of problems.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
}

impl ConfigFile {
    /// Says of problems in which file and line they are, where they do not say it themselves.
    #[must_use]
    pub fn located(&self, problems: Vec<Problem>) -> Vec<Problem> {
        yaml::located(problems, &self.path, &self.text)
    }
}

/// File shape of the keys that the core owns.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CoreFile {
    /// Listeners, limits of bodies and time, draining.
    pub server: ServerFile,
    /// Logging.
    pub log: LogFile,
    /// Directory for state: keys, database, audit log. Relative to the working directory. Default `data`.
    /// Environment: `DGX_GATEWAY_DATA_DIR`.
    pub data_dir: Option<PathBuf>,
    /// Further routes. One with the path of a built-in route replaces it.
    pub routes: Vec<RouteFile>,
}

/// Top-level keys that the core owns.
const CORE_KEYS: [&str; 4] = ["server", "log", "data_dir", "routes"];

impl Config {
    /// Reads and checks everything that the core owns. `known` are the top-level keys of the plug-ins. With problems,
    /// the defaults stand in for what is wrong, so that the rest can be checked, too.
    ///
    /// # Errors
    /// There is nothing to check: the file cannot be read, or is no YAML.
    pub fn load(
        overrides: &Overrides,
        ambient: &Ambient,
        known: &[&str],
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (file, document) = read(overrides, ambient)?;
        let mut problems = Vec::new();
        let (core, sections) = split(document, known, &mut problems);
        let core: CoreFile = yaml::read(Value::Mapping(core)).unwrap_or_else(|problem| {
            problems.push(problem);
            CoreFile::default()
        });
        let server = Server::check(core.server, ambient, &mut problems);
        let log = LogSettings::check(core.log, ambient, &mut problems);
        let routes = route::check_all(core.routes, "routes", ambient, &mut problems);
        let data_dir = ambient.var("DGX_GATEWAY_DATA_DIR").map(PathBuf::from).or(core.data_dir);
        let data_dir = data_dir.unwrap_or_else(|| PathBuf::from("data"));
        if let Some(file) = &file {
            problems = file.located(problems);
        }
        Ok((Self { server, log, data_dir, routes, sections, file }, problems))
    }
}

impl Config {
    /// Says what is not good and no reason to refuse it.
    pub fn warn(&self, now: SystemTime) {
        if let Some(tls) = &self.server.tls {
            tls.warn(now);
        }
    }

    /// Puts what only a restart changes back to how the process runs. Gives the keys that were changed.
    pub fn keep_what_runs(&mut self, runs: &Self) -> Vec<&'static str> {
        let mut changed = self.server.keep_what_runs(&runs.server);
        if self.data_dir != runs.data_dir {
            self.data_dir.clone_from(&runs.data_dir);
            changed.push("data_dir");
        }
        if self.log.format != runs.log.format {
            self.log.format = runs.log.format;
            changed.push("log.format");
        }
        changed
    }
}

/// Parses a list of routes in the form of the configuration file; used for the built-in table.
///
/// # Errors
/// All problems, each with its key.
pub fn parse_routes(yaml: &str) -> Result<Vec<RouteSpec>, Vec<Problem>> {
    let raw: Vec<RouteFile> =
        serde_yaml::from_str(yaml).map_err(|error| vec![Problem::at("routes", error.to_string())])?;
    let mut problems = Vec::new();
    let routes = route::check_all(raw, "routes", &Ambient::default(), &mut problems);
    if problems.is_empty() { Ok(routes) } else { Err(problems) }
}

/// One top-level key of the file, with its variables expanded. The other keys are not looked at: a command that needs
/// only this one works where their variables are not set.
///
/// # Errors
/// The file cannot be read, is no YAML, or a variable of the key is not set.
pub fn section(overrides: &Overrides, ambient: &Ambient, key: &str) -> Result<Option<Value>, Vec<Problem>> {
    let Some(file) = find(overrides, ambient)? else { return Ok(None) };
    yaml::parse_key(&file.text, &file.path, key, ambient)
}

/// The file as it is, with its variables expanded; empty without a file.
///
/// # Errors
/// The file cannot be read, is no YAML, or a variable is not set.
pub fn document(overrides: &Overrides, ambient: &Ambient) -> Result<Mapping, Vec<Problem>> {
    read(overrides, ambient).map(|(_, document)| document)
}

/// Where the file is, or would be.
#[must_use]
pub fn place(overrides: &Overrides, ambient: &Ambient) -> PathBuf {
    named(overrides, ambient).unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
}

fn named(overrides: &Overrides, ambient: &Ambient) -> Option<PathBuf> {
    overrides.config.clone().or_else(|| ambient.var("DGX_GATEWAY_CONFIG").map(PathBuf::from))
}

fn read(overrides: &Overrides, ambient: &Ambient) -> Result<(Option<ConfigFile>, Mapping), Vec<Problem>> {
    let Some(file) = find(overrides, ambient)? else { return Ok((None, Mapping::new())) };
    let document = parse(&file.text, &file.path, ambient)?;
    Ok((Some(file), document))
}

/// The file and its text; `None` when none was named and there is none.
fn find(overrides: &Overrides, ambient: &Ambient) -> Result<Option<ConfigFile>, Vec<Problem>> {
    let (named, path) = (named(overrides, ambient), place(overrides, ambient));
    match ambient.config_file(&path) {
        Ok(Some(text)) => Ok(Some(ConfigFile { path, text })),
        Ok(None) if named.is_none() => Ok(None),
        Ok(None) => Err(vec![Problem::at("", "cannot be read: there is no such file").in_file(path)]),
        Err(error) => Err(vec![Problem::at("", format!("cannot be read: {error}")).in_file(path)]),
    }
}

fn parse(text: &str, path: &Path, ambient: &Ambient) -> Result<Mapping, Vec<Problem>> {
    let document = yaml::parse(text, path, ambient)?;
    match document {
        Value::Mapping(mapping) => Ok(mapping),
        Value::Null => Ok(Mapping::new()),
        _ => Err(vec![Problem::at("", "the top level must be a mapping").in_file(path)]),
    }
}

fn split(document: Mapping, known: &[&str], problems: &mut Vec<Problem>) -> (Mapping, Mapping) {
    let (mut core, mut sections) = (Mapping::new(), Mapping::new());
    for (key, value) in document {
        match key.as_str() {
            Some(name) if CORE_KEYS.contains(&name) => drop(core.insert(key, value)),
            Some(name) if known.contains(&name) => drop(sections.insert(key, value)),
            Some(name) => {
                let mut all: Vec<&str> = CORE_KEYS.iter().chain(known).copied().collect();
                all.sort_unstable();
                problems.push(Problem::at(name, format!("unknown key; known are {}", all.join(", "))));
            }
            None => problems.push(Problem::at("", "keys must be strings")),
        }
    }
    (core, sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str) -> Result<Config, Vec<Problem>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), yaml).unwrap();
        let overrides = Overrides { config: Some(file.path().to_owned()) };
        let (config, problems) = Config::load(&overrides, &Ambient::default(), &["backends"])?;
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    #[test]
    fn nothing_configured_gives_the_documented_defaults() {
        let (config, problems) = Config::load(&Overrides::default(), &Ambient::default(), &[]).unwrap();
        assert_eq!(problems, []);
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:3000");
        assert_eq!(config.server.admin_listen.to_string(), "127.0.0.1:9090");
        assert_eq!(config.server.max_body_bytes, 33_554_432);
        assert_eq!(config.data_dir, PathBuf::from("data"));
    }

    #[test]
    fn reports_all_problems_at_once_with_file_and_key() {
        let problems = load("server: {listen: nonsense, max_body_bytes: 0}\nfrobnicate: 1\n").unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["frobnicate", "server.listen", "server.max_body_bytes"]);
        assert!(problems.iter().all(|problem| problem.file.is_some()));
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let problems = load("server:\n  listen: [\n").unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].line.is_some());
    }

    #[test]
    fn an_upload_has_the_limit_of_uploads_and_no_other() {
        let route = "path: /x, methods: [POST], upstream: planned, upload: true";
        assert!(load(&format!("routes: [{{{route}}}]")).unwrap().routes[0].upload);
        let problems = load(&format!("routes: [{{{route}, max_body_bytes: 5}}]")).unwrap_err();
        assert_eq!(problems[0].key, "routes[0].max_body_bytes");
    }

    #[test]
    fn keys_of_plug_ins_stay_raw() {
        assert!(load("backends: [{anything: 1}]").unwrap().sections.contains_key("backends"));
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let overrides = Overrides { config: Some(PathBuf::from("/nonexistent/gateway.yaml")) };
        assert!(Config::load(&overrides, &Ambient::default(), &[]).is_err());
    }
}
