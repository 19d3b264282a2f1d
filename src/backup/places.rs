//! Where the gateway keeps things. Only the keys that name a place are looked at, so that the commands work where the
//! variables of the other keys are set for the service alone, and with a configuration that is not valid.

use std::io;
use std::path::{Path, PathBuf};

use dgx_gateway::config::{self, Overrides};
use dgx_gateway::registry::tokens::AuthSettings;
use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::yaml;
use serde::de::DeserializeOwned;

use super::BackupError;

/// The name of the main file in a backup.
pub(super) const MAIN: &str = "config/gateway.yaml";
/// Agents in a backup.
const AGENTS: &str = "config/agents/";

/// Where things are, or would be.
#[derive(Debug)]
pub(super) struct Places {
    pub data_dir: PathBuf,
    /// Files by their names in a backup.
    files: [(&'static str, PathBuf); 4],
    agents: PathBuf,
}

impl Places {
    /// As the configuration says. `spare` is the text of the main file where there is none.
    pub(super) fn find(overrides: &Overrides, ambient: &Ambient, spare: Option<String>) -> Result<Self, BackupError> {
        let path = config::place(overrides, ambient);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => spare,
            Err(source) => return Err(BackupError::Io { path, source }),
        };
        Self::read(path, text.as_deref().unwrap_or_default(), ambient).map_err(BackupError::Config)
    }

    fn read(main: PathBuf, text: &str, ambient: &Ambient) -> Result<Self, Vec<Problem>> {
        let path = |key: &str, default: &str| -> Result<PathBuf, Vec<Problem>> {
            Ok(value(text, &main, key, ambient)?.unwrap_or_else(|| PathBuf::from(default)))
        };
        let auth: Option<AuthSettings> = value(text, &main, "auth", ambient)?;
        let data_dir = match ambient.var("DGX_GATEWAY_DATA_DIR") {
            Some(data_dir) => PathBuf::from(data_dir),
            None => path("data_dir", "data")?,
        };
        let files = [
            ("config/models.yaml", path("models_file", "conf/models.yaml")?),
            ("config/pricing.yaml", path("pricing_file", "conf/pricing.yaml")?),
            ("config/tokens.yaml", auth.unwrap_or_default().tokens_file),
            (MAIN, main.clone()),
        ];
        Ok(Self { data_dir, files, agents: path("agents_dir", "agents")? })
    }

    /// The configuration files that are there, by their names in a backup.
    pub(super) fn config_files(&self) -> Result<Vec<(String, PathBuf)>, BackupError> {
        let mut found = Vec::new();
        for (name, path) in &self.files {
            if path.try_exists().map_err(super::at(path))? {
                found.push(((*name).to_owned(), path.clone()));
            }
        }
        let agents = match std::fs::read_dir(&self.agents) {
            Ok(agents) => agents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(source) => return Err(BackupError::Io { path: self.agents.clone(), source }),
        };
        for entry in agents {
            let path = entry.map_err(super::at(&self.agents))?.path();
            let is_agent = path.extension().is_some_and(|extension| extension == "yaml") && path.is_file();
            if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| is_agent) {
                found.push((format!("{AGENTS}{name}"), path));
            }
        }
        Ok(found)
    }

    /// Where a configuration file of a backup belongs; `None` for one that this version does not know.
    pub(super) fn of_config(&self, name: &str) -> Option<PathBuf> {
        let agent = || Some(self.agents.join(name.strip_prefix(AGENTS).filter(|name| !name.contains('/'))?));
        self.files.iter().find(|(known, _)| *known == name).map(|(_, path)| path.clone()).or_else(agent)
    }
}

fn value<T: DeserializeOwned>(
    text: &str,
    file: &Path,
    key: &str,
    ambient: &Ambient,
) -> Result<Option<T>, Vec<Problem>> {
    let Some(value) = yaml::parse_key(text, file, key, ambient)? else { return Ok(None) };
    yaml::read(value).map(Some).map_err(|mut problem| {
        problem.key = if problem.key.is_empty() { key.to_owned() } else { format!("{key}.{}", problem.key) };
        yaml::located(vec![problem], file, text)
    })
}
