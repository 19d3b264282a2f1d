use proptest::prelude::*;
use rust_decimal::Decimal;

use super::kind::MAX_DOMAINS;
use super::*;
use crate::ambient::Ambient;

fn text(word: &str) -> Input {
    Input::Text(word.to_owned())
}

fn number(literal: &str) -> Input {
    Input::Number(literal.to_owned())
}

fn list<const N: usize>(words: [&str; N]) -> Input {
    Input::List(words.map(text).to_vec())
}

fn read(key: TenantKey, input: Input) -> Result<Value, Vec<Wrong>> {
    key.about().kind.read(input, Limits::default())
}

fn ambient(variables: &[(&str, &str)]) -> Ambient {
    Ambient::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn environment(variables: &[(&str, &str)]) -> (Environment, Vec<String>) {
    let (environment, problems) = Environment::read(&ambient(variables));
    (environment, problems.into_iter().map(|problem| problem.key).collect())
}

#[test]
fn the_table_is_in_the_order_of_answers_and_knows_its_names() {
    let order: Vec<_> = TenantKey::ALL.iter().map(|key| (key.about().group, key.about().name)).collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(order, sorted);
    for (index, key) in TenantKey::ALL.iter().enumerate() {
        assert_eq!((*key as usize, TenantKey::named(key.about().name)), (index, Some(*key)));
    }
    assert_eq!(TenantKey::named("budgets"), None);
}

#[test]
fn the_values_of_the_product_fit_their_keys() {
    for key in TenantKey::ALL {
        let about = key.about();
        let input = match about.default(Limits::default()) {
            Value::Decimal(decimal) => number(&decimal.to_string()),
            Value::Flag(flag) => Input::Flag(flag),
            Value::Integer(integer) => number(&integer.to_string()),
            Value::List(words) => Input::List(words.iter().map(|word| text(word)).collect()),
            Value::Null => Input::Null,
            Value::Text(word) => text(&word),
        };
        assert_eq!(read(*key, input), Ok(about.default(Limits::default())), "{}", about.name);
    }
}

/// For each key values at its edges, as one may write them in JSON, and the nearest that do not fit.
fn edges(key: TenantKey) -> (Vec<Input>, Vec<Input>) {
    let numbers = |literals: &[&str]| literals.iter().map(|literal| number(literal)).collect::<Vec<_>>();
    let long = "x".repeat(257);
    match key.about().kind {
        Kind::Decimal(min, max) => {
            let of = |hundredths: i64| number(&Decimal::new(hundredths, 2).to_string());
            let good = vec![of(min), of(max), text(&Decimal::new(min, 2).to_string()), number("5e-1")];
            (good, vec![of(min - 1), of(max + 1), text("a lot"), Input::Flag(true), Input::Null, number("1e99")])
        }
        Kind::Domains => {
            let many = |count: usize| Input::List((0..count).map(|n| text(&format!("d{n}.example"))).collect());
            let good = vec![list([]), list(["example.com", "a-b.example", "10.0.0.1"]), many(MAX_DOMAINS)];
            let bad = ["", "a b", "*.example.com", ".example.com", "https://example.com", "-a.b", &long];
            let bad = bad.iter().map(|word| list([word])).chain([many(MAX_DOMAINS + 1), text("example.com")]);
            (good, bad.chain([Input::Null, Input::List(vec![number("1")])]).collect())
        }
        Kind::Flag => {
            let good = vec![Input::Flag(true), Input::Flag(false)];
            (good, vec![text("true"), number("1"), Input::Null, list([])])
        }
        Kind::Globs => {
            let good = vec![Input::Null, list([]), list(["claude-*", "m"])];
            (good, vec![text("m"), list(["a b"]), list([""]), list([&long]), Input::List(vec![Input::Null])])
        }
        Kind::Integer(min, max) => {
            let mut good = numbers(&[&min.to_string(), &max.to_string()]);
            good.push(Input::Bare(max.to_string()));
            let mut bad = numbers(&[&(max + 1).to_string(), "-1", "1.5", "2.0", "1e3", "+5", "99999999999999999999"]);
            bad.extend(min.checked_sub(1).map(|below| number(&below.to_string())));
            bad.extend([text(&max.to_string()), Input::Flag(true), Input::Null]);
            (good, bad)
        }
        Kind::Iterations => (numbers(&["1", "10"]), numbers(&["0", "11"])),
        Kind::Slug(_) => (
            vec![text("a-model"), text(&"x".repeat(256))],
            vec![Input::Null, text(""), text("a b"), text(&long), number("5")],
        ),
        Kind::SlugOrNull(_) => (vec![Input::Null, text("a-model")], vec![text(""), text("é"), list(["m"])]),
        Kind::Tools => {
            let good = vec![list([]), list(tools::TOOLS), list(["calculator"])];
            (good, vec![list(["calculator", "calculator"]), list(["shell"]), text("calculator"), Input::Null])
        }
        Kind::Word(words) => {
            let good = words.iter().map(|word| text(word)).collect();
            (good, vec![text("other"), text(""), number("1"), Input::Null, text(&words[0].to_uppercase())])
        }
    }
}

#[test]
fn every_key_takes_values_up_to_its_edges_and_no_further() {
    for key in TenantKey::ALL {
        let (good, bad) = edges(*key);
        for input in good {
            assert!(read(*key, input.clone()).is_ok(), "{key:?} {input:?}");
        }
        for input in bad {
            let wrong = read(*key, input.clone()).expect_err(key.about().name);
            assert!(wrong.iter().all(|wrong| !wrong.message.is_empty()), "{key:?} {input:?}");
        }
    }
}

#[test]
fn digits_stay_as_they_were_written() {
    let of = |input| match read(TenantKey::CostMarkupFactor, input) {
        Ok(Value::Decimal(decimal)) => decimal.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!((of(text("1.20")), of(number("1.2")), of(number("100"))), ("1.20".into(), "1.2".into(), "100".into()));
}

#[test]
fn all_bad_items_of_a_list_are_told() {
    let wrong = read(TenantKey::WebFetchDenyDomains, list(["a b", "example.com", ""])).unwrap_err();
    assert_eq!(wrong.iter().map(|wrong| wrong.item).collect::<Vec<_>>(), [Some(0), Some(2)]);
}

#[test]
fn every_variable_is_read_and_a_bad_one_is_told_by_its_name() {
    for key in TenantKey::ALL {
        let about = key.about();
        let Some(name) = about.variable() else { continue };
        let (good, bad) = match about.kind {
            Kind::Decimal(..) => ("0.50", "0"),
            Kind::Domains => ("example.com, example.org", "a b"),
            Kind::Flag => ("false", "no"),
            Kind::Integer(..) => ("128", "-1"),
            Kind::Iterations => ("3", "51"),
            Kind::Tools => ("calculator,web_fetch", "shell"),
            Kind::Word(words) => (words[1], "other"),
            Kind::Globs | Kind::Slug(_) | Kind::SlugOrNull(_) => ("a-model", "a model"),
        };
        let good = if about.kind == Kind::Integer(0, 50) || about.kind == Kind::Integer(1, 20) { "7" } else { good };
        let good = if let Kind::Integer(0, 8 | 120) = about.kind { "3" } else { good };
        let good = if about.name == "rag_chunk_overlap" { "32" } else { good };
        let good = if let Kind::Integer(1024, _) = about.kind { "2048" } else { good };
        let (read, problems) = environment(&[(&name, good)]);
        assert_eq!((read.level.keys().collect::<Vec<_>>(), problems.len()), (vec![key], 0), "{name}={good}");
        let (read, problems) = environment(&[(&name, bad)]);
        assert!(read.level.is_empty(), "{name}={bad}");
        assert!(problems.len() == 1 && problems[0].starts_with(&*name), "{name}={bad}: {problems:?}");
    }
    let without: Vec<_> =
        TenantKey::ALL.iter().filter(|key| key.about().variable().is_none()).map(|key| key.about().name).collect();
    assert_eq!(without, ["c1_require_user_id_binding", "models_allowlist", "models_blacklist"]);
    assert_eq!(
        TenantKey::StreamHeartbeatSeconds.about().variable().as_deref(),
        Some("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS")
    );
}

#[test]
fn the_environment_says_null_where_a_key_may_have_none() {
    let (read, problems) =
        environment(&[("DGX_GATEWAY_RAG_EMBEDDING_MODEL", "null"), ("DGX_GATEWAY_IMAGE_GEN_SIZE", "null")]);
    assert_eq!(read.level.get(&TenantKey::RagEmbeddingModel), Some(&Value::Null));
    assert_eq!(problems, ["DGX_GATEWAY_IMAGE_GEN_SIZE"]);
}

#[test]
fn the_most_iterations_of_the_process_bound_the_key_and_are_its_default() {
    let (read, problems) = environment(&[("MAX_TOOL_ITERATIONS", "20"), ("DGX_GATEWAY_TOOL_MAX_ITERATIONS", "20")]);
    assert!(problems.is_empty() && read.level.len() == 1);
    assert_eq!(TenantKey::ToolMaxIterations.about().default(read.limits), Value::Integer(20));
    assert_eq!(environment(&[("DGX_GATEWAY_TOOL_MAX_ITERATIONS", "11")]).1, ["DGX_GATEWAY_TOOL_MAX_ITERATIONS"]);
    assert_eq!(environment(&[("MAX_TOOL_ITERATIONS", "51")]).1, ["MAX_TOOL_ITERATIONS"]);
}

#[test]
fn chunks_overlap_by_half_at_most_at_every_level() {
    assert_eq!(environment(&[("DGX_GATEWAY_RAG_CHUNK_TOKENS", "127")]).1, ["DGX_GATEWAY_RAG_CHUNK_OVERLAP"]);
    let variables = [("DGX_GATEWAY_RAG_CHUNK_TOKENS", "128")];
    let (read, problems) = environment(&variables);
    assert!(problems.is_empty());
    let process = Process::of(&read);
    let fits = |yaml: &[(TenantKey, u64)], db: &[(TenantKey, u64)]| {
        let level = |values: &[(TenantKey, u64)]| -> Level {
            values.iter().map(|(key, value)| (*key, Value::Integer(*value))).collect()
        };
        Cascade { db: &level(db), yaml: &level(yaml), process: &process }.check_overlap().is_ok()
    };
    let (overlap, tokens) = (TenantKey::RagChunkOverlap, TenantKey::RagChunkTokens);
    assert!(fits(&[], &[]) && !fits(&[(overlap, 65)], &[]) && fits(&[(overlap, 65)], &[(tokens, 130)]));
    assert!(!fits(&[(overlap, 65), (tokens, 200)], &[(tokens, 129)]) && fits(&[], &[(overlap, 0), (tokens, 64)]));
}

#[test]
fn settings_are_the_values_with_their_types() {
    let settings = TenantSettings::default();
    assert_eq!((settings.augment_memory, settings.tools_confirm_same_turn), (true, false));
    assert_eq!((settings.stream_heartbeat_seconds, settings.tool_max_iterations), (15, 10));
    assert_eq!(settings.compaction_threshold, Decimal::new(80, 2));
    assert_eq!((&*settings.image_gen_model, &*settings.image_gen_size), ("image-gen", "1024x1024"));
    assert_eq!((settings.rag_embedding_model.as_deref(), settings.stt_model.as_deref()), (Some("nomic-embed"), None));
    assert_eq!((settings.server_tools_allowlist.len(), settings.web_fetch_allow_domains.len()), (14, 0));
    assert_eq!((settings.models_allowlist.is_none(), settings.cost_markup_factor), (true, Decimal::ONE));
}

proptest! {
    #[test]
    fn the_highest_level_that_has_a_value_counts_for_each_key(
        has in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), TenantKey::ALL.len())
    ) {
        // values that no key takes tell the levels apart
        let of = |word: &str| Value::Text(word.into());
        let (mut db, mut yaml, mut environment) = (Level::new(), Level::new(), Environment::default());
        for (key, (in_db, in_yaml, in_environment)) in TenantKey::ALL.iter().zip(&has) {
            for (level, is_there, word) in
                [(&mut db, in_db, "db"), (&mut yaml, in_yaml, "yaml"), (&mut environment.level, in_environment, "env")]
            {
                if *is_there {
                    level.insert(*key, of(word));
                }
            }
        }
        let process = Process::of(&environment);
        let cascade = Cascade { db: &db, yaml: &yaml, process: &process };
        for (key, (in_db, in_yaml, in_environment)) in TenantKey::ALL.iter().zip(&has) {
            let expected = match (*in_db && key.about().group == Group::C, in_yaml, in_environment) {
                (true, _, _) => (of("db"), Source::Db),
                (false, true, _) => (of("yaml"), Source::Yaml),
                (false, false, true) => (of("env"), Source::Process),
                (false, false, false) => (key.about().default(Limits::default()), Source::Process),
            };
            let (value, source) = cascade.value(*key);
            prop_assert_eq!((value.clone(), source), expected);
        }
    }
}
