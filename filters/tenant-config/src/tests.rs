//! The crate as a whole: endpoint, database, and what requests work with.

use std::collections::BTreeMap;

use dgx_gateway_filter::ServiceKind;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::tenant_config::{Environment, Group, Process, TenantKey};
use dgx_gateway_store::rusqlite::Connection;
use proptest::prelude::*;

use crate::config::Tenancy;
use crate::shared::{Shared, refresh};
use crate::testing::{Operator, World, members};
use crate::{Service, Settings};

const PUT: &str = "PUT";

#[tokio::test]
async fn a_change_counts_for_the_next_request_of_its_tenant_alone() {
    let world = World::new();
    let settings = |tenant: &str| world.config().settings(tenant).unwrap();
    let before = settings("acme");
    assert_eq!(world.ask("acme", PUT, "/stream_heartbeat_seconds", r#"{"value": 7}"#).await.0, 200);
    assert_eq!(settings("acme").stream_heartbeat_seconds, 7);
    assert_eq!((settings("globex").stream_heartbeat_seconds, before.stream_heartbeat_seconds), (15, 15));
    assert_eq!(world.ask("acme", "DELETE", "/stream_heartbeat_seconds", "").await.0, 204);
    assert_eq!(settings("acme").stream_heartbeat_seconds, 15);
    assert!(world.config().settings("nobody").is_none());
}

#[tokio::test]
async fn every_change_is_recorded_once_with_the_values_that_counted() {
    let world = World::new();
    for (method, path, body) in [
        (PUT, "/compaction_threshold", r#"{"value": 0.75}"#),
        (PUT, "/compaction_threshold", r#"{"value": "0.750"}"#), // the same value again
        (PUT, "/stream_cost_event", r#"{"value": true}"#),       // its own now, though nothing changes for requests
        (PUT, "", r#"{"config": {"tool_timeout_seconds": 5, "stt_model": "an-audio", "compaction_threshold": 0.75}}"#),
        ("DELETE", "/compaction_threshold", ""),
        ("DELETE", "/compaction_threshold", ""), // there is none any more
        (PUT, "", r#"{"config": {}}"#),
        (PUT, "", r#"{"config": {"rag_top_k": 3, "rag_chunk_overlap": 400}}"#), // refused
    ] {
        world.ask("acme", method, path, body).await;
    }
    assert_eq!(
        world.records(),
        [
            "acme put compaction_threshold 0.80 0.75",
            "acme put stream_cost_event true true",
            "acme put tool_timeout_seconds 30 5",
            "acme put stt_model null \"an-audio\"",
            "acme delete compaction_threshold 0.75 0.80",
        ]
    );
}

#[tokio::test]
async fn a_client_that_leaves_does_not_keep_its_change_from_being_recorded() {
    let world = World::new();
    for n in 1..=20 {
        let asked = world.begin("acme", PUT, "/rag_top_k", &format!("{{\"value\": {n}}}"));
        tokio::task::yield_now().await;
        asked.abort();
        drop(asked.await);
    }
    world.ask("acme", PUT, "/tool_timeout_seconds", r#"{"value": 5}"#).await; // all that came before it are done
    let stored: Option<String> = {
        let reader = world.store().reader().unwrap();
        let select = "SELECT (SELECT value FROM tenant_config WHERE key = 'rag_top_k')";
        reader.query_row(select, [], |row| row.get(0)).unwrap()
    };
    let records = world.records();
    let last = records.iter().rfind(|record| record.contains("rag_top_k")).and_then(|record| record.rsplit(' ').next());
    assert_eq!(last.map(str::to_owned), stored, "{records:?}");
}

#[tokio::test]
async fn two_changes_at_once_cannot_break_together_what_neither_breaks_alone() {
    for _ in 0..20 {
        let world = World::new();
        let smaller = world.begin("acme", PUT, "/rag_chunk_tokens", r#"{"value": 128}"#);
        let larger = world.begin("acme", PUT, "/rag_chunk_overlap", r#"{"value": 200}"#);
        let statuses = [smaller.await.unwrap(), larger.await.unwrap()];
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        let settings = world.config().settings("acme").unwrap();
        assert!(settings.rag_chunk_overlap * 2 <= settings.rag_chunk_tokens);
    }
}

#[tokio::test]
async fn a_rule_between_keys_is_about_the_values_after_the_change() {
    let world = World::new();
    let (ok, both) = ((200, String::new()), r#"{"config": {"rag_chunk_tokens": 2000, "rag_chunk_overlap": 512}}"#);
    let ask = async |path, body| {
        let (status, body) = world.ask("acme", PUT, path, body).await;
        if status == 200 { (200, String::new()) } else { (status, body) }
    };
    let refused = |param: &str| (0, format!("tenant_config_value_invalid {param}"));
    assert_eq!(ask("/rag_chunk_overlap", r#"{"value": 257}"#).await, refused("value"));
    assert_eq!(ask("/rag_chunk_tokens", r#"{"value": 127}"#).await, refused("value"));
    assert_eq!(ask("", both).await, ok);
    assert_eq!(
        ask("", r#"{"config": {"rag_top_k": 1, "rag_chunk_tokens": 1023}}"#).await,
        refused("config.rag_chunk_tokens")
    );
    let overlap = r#"{"config": {"rag_chunk_tokens": 600, "rag_chunk_overlap": 301}}"#;
    assert_eq!(ask("", overlap).await, refused("config.rag_chunk_overlap"));
    // a removal is always possible, and what does not go together then does not keep other keys from being set
    assert_eq!(world.ask("acme", "DELETE", "/rag_chunk_tokens", "").await.0, 204);
    assert_eq!(ask("/rag_top_k", r#"{"value": 3}"#).await, ok);
    let settings = world.config().settings("acme").unwrap();
    assert_eq!((settings.rag_chunk_tokens, settings.rag_chunk_overlap, settings.rag_top_k), (512, 256, 3));
}

#[tokio::test]
async fn a_database_that_cannot_be_written_refuses_and_changes_nothing() {
    let world = World::new();
    let other = Connection::open(world.dir.path().join("gateway.sqlite")).unwrap();
    other.execute_batch("ALTER TABLE tenant_config RENAME TO elsewhere").unwrap();
    let refused = (0, "storage_error ".to_owned());
    assert_eq!(world.ask("acme", PUT, "/rag_top_k", r#"{"value": 3}"#).await, refused);
    assert_eq!(world.ask("acme", "DELETE", "/rag_top_k", "").await, refused);
    assert_eq!((world.config().settings("acme").unwrap().rag_top_k, world.records().len()), (5, 0));
    other.execute_batch("ALTER TABLE elsewhere RENAME TO tenant_config").unwrap();
    assert_eq!(world.ask("acme", PUT, "/rag_top_k", r#"{"value": 3}"#).await.0, 200);
}

#[tokio::test]
async fn what_another_process_changes_is_seen_at_the_next_look() {
    let one = World::new();
    let other = Connection::open(one.dir.path().join("gateway.sqlite")).unwrap();
    let write = |sql: &str| other.execute_batch(sql).unwrap();
    write(
        "INSERT INTO tenant_config VALUES ('acme', 'rag_top_k', '9', 0, 'other'), ('nobody', 'rag_top_k', '9', 0, 'x')",
    );
    let look = async || refresh(&one.env.service::<Shared>().unwrap()).await.unwrap();
    look().await;
    assert_eq!(one.config().settings("acme").unwrap().rag_top_k, 5, "nothing tells of it yet");
    write("INSERT INTO tenant_config_changes VALUES ('acme', 1), ('nobody', 2)");
    look().await;
    assert_eq!(one.config().settings("acme").unwrap().rag_top_k, 9);
    assert!(one.config().settings("nobody").is_none());
}

#[tokio::test]
async fn rows_that_do_not_fit_are_passed_over() {
    let world = World::new();
    let other = Connection::open(world.dir.path().join("gateway.sqlite")).unwrap();
    let rows =
        "INSERT INTO tenant_config VALUES ('acme', 'rag_top_k', '99', 0, 'x'), ('acme', 'of_tomorrow', '1', 0, 'x'),
        ('acme', 'stt_model', 'no json', 0, 'x'), ('acme', 'cost_markup_factor', '0.01', 0, 'x'),
        ('acme', 'tool_max_iterations', '11', 0, 'x'), ('acme', 'tool_timeout_seconds', '7', 0, 'x');
        INSERT INTO tenant_config_changes VALUES ('acme', 1)";
    other.execute_batch(rows).unwrap();
    refresh(&world.env.service::<Shared>().unwrap()).await.unwrap();
    let settings = world.config().settings("acme").unwrap();
    assert_eq!((settings.rag_top_k, settings.stt_model.as_deref(), settings.tool_timeout_seconds), (5, None, 7));
    assert_eq!(settings.tool_max_iterations, 10);
    assert_eq!(settings.cost_markup_factor.to_string(), "1.20", "what is the operator's stays the operator's");
}

#[tokio::test]
async fn a_reload_keeps_what_tenants_set_and_tells_both_generations() {
    let world = World::new();
    world.ask("acme", PUT, "/rag_top_k", r#"{"value": 9}"#).await;
    let shared = world.env.service::<Shared>().unwrap();
    let tenants = Operator(vec![("acme".into(), Default::default()), ("new".into(), Default::default())]);
    let next = Tenancy::build(Process::default(), &tenants, &shared).unwrap();
    let settings = |tenant: &str| {
        use dgx_gateway_filter::tenant_config::TenantConfig;
        next.settings(tenant)
    };
    assert_eq!(settings("acme").unwrap().rag_top_k, 9);
    assert_eq!(settings("acme").unwrap().cost_markup_factor.to_string(), "1.00");
    assert!(settings("new").is_some() && settings("globex").is_none());
    world.ask("acme", PUT, "/rag_top_k", r#"{"value": 4}"#).await;
    assert_eq!((settings("acme").unwrap().rag_top_k, world.config().settings("acme").unwrap().rag_top_k), (4, 4));
}

#[test]
fn the_documentation_names_every_key_with_its_group() {
    let operations = include_str!("../../../docs/OPERATIONS.md");
    let (_, section) = operations.split_once("## Tenant configuration").unwrap();
    let (of_operator, of_tenant) = section.split_once("The tenant, too, sets these").unwrap();
    for key in TenantKey::ALL {
        let part = if key.about().group == Group::B { of_operator } else { of_tenant };
        let row = |line: &&str| line.starts_with("| `") && line.contains(&format!("`{}`", key.about().name));
        assert_eq!(part.split("\n## ").next().unwrap().lines().filter(row).count().min(1), 1, "{}", key.about().name);
    }
}

#[test]
fn bad_variables_are_problems_by_their_names() {
    let variables = [("DGX_GATEWAY_TOOL_TIMEOUT_SECONDS", "301"), ("DGX_GATEWAY_STREAM_COST_EVENT", "yes")];
    let ambient = Ambient::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let problems = Service::check(Settings::default(), &ambient).unwrap_err();
    let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "DGX_GATEWAY_STREAM_COST_EVENT: must be true or false",
            "DGX_GATEWAY_TOOL_TIMEOUT_SECONDS: must be a number from 1 to 300"
        ]
    );
    assert!(Environment::read(&Ambient::default()).1.is_empty());
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Delete(usize),
    Put(Vec<(usize, u64)>),
}

/// Integer keys with a common range.
const KEYS: [&str; 4] =
    ["c1_retention_days", "images_retention_days", "session_retention_days", "tool_timeout_seconds"];

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS.len();
    // some values are out of range
    let edits = prop::collection::btree_map(key.clone(), prop_oneof![9 => 1_u64..300, 1 => 4000_u64..5000], 0..4);
    prop_oneof![key.prop_map(Step::Delete), edits.prop_map(|edits| Step::Put(edits.into_iter().collect()))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Memory, database and a restart agree with a model that is a map; a bulk change is made as a whole or not at all.
    #[test]
    fn what_counts_is_what_was_acknowledged(steps in prop::collection::vec(step(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let mut model: BTreeMap<&str, u64> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Delete(key) => {
                        assert_eq!(world.ask("acme", "DELETE", &format!("/{}", KEYS[key]), "").await.0, 204);
                        model.remove(KEYS[key]);
                    }
                    Step::Put(edits) => {
                        let config: BTreeMap<_, _> = edits.iter().map(|(key, value)| (KEYS[*key], *value)).collect();
                        let body = serde_json::json!({"config": config}).to_string();
                        let fits = edits.iter().all(|(_, value)| *value < 4000);
                        assert_eq!(world.ask("acme", PUT, "", &body).await.0 == 200, fits);
                        if fits {
                            model.extend(config);
                        }
                    }
                }
                agrees(&world, &model).await;
            }
            let World { dir, env, .. } = world;
            drop(env);
            agrees(&World::with(dir, &[]), &model).await;
        });
    }
}

async fn agrees(world: &World, model: &BTreeMap<&str, u64>) {
    let settings = world.config().settings("acme").unwrap();
    let used = [
        settings.c1_retention_days,
        settings.images_retention_days,
        settings.session_retention_days,
        settings.tool_timeout_seconds,
    ];
    let (_, body) = world.ask("acme", "GET", "", "").await;
    let shown = &members(&body)["config"];
    for (key, used) in KEYS.into_iter().zip(used) {
        let default = TenantKey::named(key).unwrap().about().default(Default::default());
        let expected = model.get(key).map_or_else(
            || serde_json::from_str(&crate::entry::Shown(&default).to_string()).unwrap(),
            |value| serde_json::Value::from(*value),
        );
        assert_eq!((&shown[key]["value"], &serde_json::Value::from(used)), (&expected, &expected), "{key}");
        assert_eq!(shown[key]["source"], if model.contains_key(key) { "db" } else { "process" });
    }
}
