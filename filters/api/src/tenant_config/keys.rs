//! The table of keys: the only place where a key is described.

use std::sync::Arc;

use rust_decimal::Decimal;

use super::cascade::Cascade;
use super::environment::Limits;
use super::kind::{Kind, ModelUse, list_of};
use super::tools::INJECTED;
use super::value::{Field, Value};

/// Bytes of notes about one user in one scope; the key `MAX_BYTES_PER_BUCKET`.
pub const MAX_BYTES_PER_BUCKET: u64 = 65_536;

/// Who may set a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Nobody: fixed by the product or the catalog. None of these stands in the table.
    A,
    /// The operator.
    B,
    /// The operator and the tenant.
    C,
}

impl Group {
    /// Its letter.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        }
    }
}

/// What is known of a key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Who may set it.
    pub group: Group,
    /// Type and range.
    pub kind: Kind,
    preset: Preset,
    in_environment: bool,
}

/// The value of the product, as it can stand in a table.
#[derive(Clone, Copy, Debug)]
enum Preset {
    Flag(bool),
    /// Hundredths.
    Hundredths(i64),
    Integer(u64),
    /// No domain.
    NoDomains,
    /// As many as the process allows.
    MostIterations,
    Null,
    Text(&'static str),
    /// The tools that are offered by themselves.
    InjectedTools,
}

impl Key {
    /// The value of the product.
    #[must_use]
    pub fn default(&self, limits: Limits) -> Value {
        match self.preset {
            Preset::Flag(flag) => Value::Flag(flag),
            Preset::Hundredths(number) => Value::Decimal(Decimal::new(number, 2)),
            Preset::Integer(number) => Value::Integer(number),
            Preset::NoDomains => list_of(&[]),
            Preset::MostIterations => Value::Integer(limits.max_tool_iterations),
            Preset::Null => Value::Null,
            Preset::Text(text) => Value::Text(text.into()),
            Preset::InjectedTools => list_of(&INJECTED),
        }
    }

    /// Name of its environment variable, if it has one.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        self.in_environment.then(|| format!("DGX_GATEWAY_{}", self.name.to_ascii_uppercase()))
    }
}

/// A row is `group name Variant: kind, value of the product, whether it has a variable;`. The type of the field follows
/// from the kind.
macro_rules! keys {
    (@type flag) => { bool };
    (@type integer($min:literal, $max:literal)) => { u64 };
    (@type iterations) => { u64 };
    (@type decimal($min:literal, $max:literal)) => { Decimal };
    (@type word($words:expr)) => { Arc<str> };
    (@type slug($use:ident)) => { Arc<str> };
    (@type slug_or_null($use:ident)) => { Option<Arc<str>> };
    (@type tools) => { Arc<[String]> };
    (@type domains) => { Arc<[String]> };
    (@type globs) => { Option<Arc<[String]>> };
    (@kind flag) => { Kind::Flag };
    (@kind integer($min:literal, $max:literal)) => { Kind::Integer($min, $max) };
    (@kind iterations) => { Kind::Iterations };
    (@kind decimal($min:literal, $max:literal)) => { Kind::Decimal($min, $max) };
    (@kind word($words:expr)) => { Kind::Word($words) };
    (@kind slug($use:ident)) => { Kind::Slug(ModelUse::$use) };
    (@kind slug_or_null($use:ident)) => { Kind::SlugOrNull(ModelUse::$use) };
    (@kind tools) => { Kind::Tools };
    (@kind domains) => { Kind::Domains };
    (@kind globs) => { Kind::Globs };
    ($($group:ident $name:ident $variant:ident: $kind:ident $(($($range:tt)*))?, $preset:expr, $environment:literal;)*) => {
        /// A key of group B or C. The order is that of answers: by group, then by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the table describes them")]
        pub enum TenantKey { $($variant,)* }

        impl TenantKey {
            /// All keys of groups B and C, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What is known of it.
            #[must_use]
            pub fn about(self) -> &'static Key {
                match self {
                    $(Self::$variant => &const { Key {
                        name: stringify!($name),
                        group: Group::$group,
                        kind: keys!(@kind $kind $(($($range)*))?),
                        preset: $preset,
                        in_environment: $environment,
                    } },)*
                }
            }

            /// The key of a name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        /// All values of a tenant, as they count. Stated as a fact with
        /// [`Principal`](crate::facts::Principal): a request works with those of its start. Shared by all requests of
        /// the tenant, and made anew only when one of them changes.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the table describes them")]
        pub struct TenantSettings { $(pub $name: keys!(@type $kind $(($($range)*))?),)* }

        impl TenantSettings {
            /// What the levels come to.
            #[must_use]
            pub fn of(cascade: &Cascade<'_>) -> Self {
                let read = Self { $($name: Field::of(cascade.value(TenantKey::$variant).0),)* };
                read.together()
            }
        }
    };
}

keys! {
    B audit_user_id_pseudonymize AuditUserIdPseudonymize: flag, Preset::Flag(false), true;
    B c1_require_user_id_binding C1RequireUserIdBinding: flag, Preset::Flag(true), false;
    B cost_markup_factor CostMarkupFactor: decimal(1, 10_000), Preset::Hundredths(100), true;
    B models_allowlist ModelsAllowlist: globs, Preset::Null, false;
    B models_blacklist ModelsBlacklist: globs, Preset::Null, false;
    C augment_memory AugmentMemory: flag, Preset::Flag(true), true;
    C augment_server_tools AugmentServerTools: flag, Preset::Flag(true), true;
    C augment_system_prompt AugmentSystemPrompt: flag, Preset::Flag(true), true;
    C c1_max_history_turns C1MaxHistoryTurns: integer(0, 10_000), Preset::Integer(0), true;
    C c1_retention_days C1RetentionDays: integer(0, 3650), Preset::Integer(0), true;
    C compaction_enabled CompactionEnabled: flag, Preset::Flag(true), true;
    C compaction_keep_turns CompactionKeepTurns: integer(0, 50), Preset::Integer(4), true;
    C compaction_model CompactionModel: slug_or_null(Chat), Preset::Null, true;
    C compaction_summary_max_tokens CompactionSummaryMaxTokens: integer(128, 8192), Preset::Integer(1024), true;
    C compaction_threshold CompactionThreshold: decimal(30, 95), Preset::Hundredths(80), true;
    C default_model DefaultModel: slug_or_null(Chat), Preset::Null, true;
    C image_gen_inline ImageGenInline: flag, Preset::Flag(true), true;
    C image_gen_max_per_request ImageGenMaxPerRequest: integer(0, 8), Preset::Integer(2), true;
    C image_gen_model ImageGenModel: slug(Image), Preset::Text("image-gen"), true;
    C image_gen_size ImageGenSize: word(&["auto", "1024x1024", "1024x1536", "1536x1024"]), Preset::Text("1024x1024"), true;
    C images_max_bytes_per_user ImagesMaxBytesPerUser: integer(0, 1_099_511_627_776), Preset::Integer(268_435_456), true;
    C images_retention_days ImagesRetentionDays: integer(0, 3650), Preset::Integer(30), true;
    C memory_inject_max_bytes MemoryInjectMaxBytes: integer(0, 65_536), Preset::Integer(4096), true;
    C rag_chunk_overlap RagChunkOverlap: integer(0, 512), Preset::Integer(64), true;
    C rag_chunk_tokens RagChunkTokens: integer(64, 2000), Preset::Integer(512), true;
    C rag_embedding_model RagEmbeddingModel: slug_or_null(Embedding), Preset::Text("nomic-embed"), true;
    C rag_top_k RagTopK: integer(1, 20), Preset::Integer(5), true;
    C server_tools_allowlist ServerToolsAllowlist: tools, Preset::InjectedTools, true;
    C session_retention_days SessionRetentionDays: integer(0, 3650), Preset::Integer(0), true;
    C stream_cost_event StreamCostEvent: flag, Preset::Flag(true), true;
    C stream_heartbeat_seconds StreamHeartbeatSeconds: integer(0, 120), Preset::Integer(15), true;
    C stt_default_mode SttDefaultMode: word(&["continuous", "chunked"]), Preset::Text("continuous"), true;
    C stt_model SttModel: slug_or_null(Transcription), Preset::Null, true;
    C tool_max_iterations ToolMaxIterations: iterations, Preset::MostIterations, true;
    C tool_result_max_bytes ToolResultMaxBytes: integer(1024, 262_144), Preset::Integer(32_768), true;
    C tool_timeout_seconds ToolTimeoutSeconds: integer(1, 300), Preset::Integer(30), true;
    C tools_confirm_same_turn ToolsConfirmSameTurn: flag, Preset::Flag(false), true;
    C web_fetch_allow_domains WebFetchAllowDomains: domains, Preset::NoDomains, true;
    C web_fetch_deny_domains WebFetchDenyDomains: domains, Preset::NoDomains, true;
}

impl TenantSettings {
    /// The values as they are used. Levels that change apart may come to values that do not go together.
    fn together(self) -> Self {
        Self { rag_chunk_overlap: self.rag_chunk_overlap.min(self.rag_chunk_tokens / 2), ..self }
    }
}

impl Default for TenantSettings {
    /// The values of the product.
    fn default() -> Self {
        let process = super::Process::default();
        Self::of(&Cascade { db: &super::Level::new(), yaml: &super::Level::new(), process: &process })
    }
}
