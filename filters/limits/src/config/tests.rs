use super::*;

fn check(json: &str, variables: &[(&str, &str)]) -> Result<CheckedLimits, Vec<Problem>> {
    let ambient = Ambient::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Service::check(serde_json::from_str(json).unwrap(), &ambient)
}

fn keys(result: Result<CheckedLimits, Vec<Problem>>) -> Vec<String> {
    result.unwrap_err().into_iter().map(|problem| problem.key).collect()
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let checked = CheckedLimits {
        requests: Rate::new(30, 1.0),
        auth_failures: Rate::new(10, 0.5),
        queue_timeout: Duration::from_secs(30),
        store: None,
        on_store_failure: FailureRules::new(&OnStoreFailure::All(StoreFailure::LocalShare)),
        expected_replicas: 1,
    };
    assert_eq!(check("{}", &[]), Ok(checked.clone()));
    let written = r#"{"limits": {"per_second": 1, "burst": 30, "store": null, "on_store_failure": "local_share",
        "expected_replicas": 1, "queue_timeout_ms": 30000, "auth_failures": {"per_minute": 30, "burst": 10}}}"#;
    assert_eq!(check(written, &[]), Ok(checked));
}

#[test]
fn the_environment_wins_over_the_file() {
    let checked = check(
        r#"{"limits": {"per_second": 9, "burst": 99}}"#,
        &[("RATE_LIMIT_PER_SECOND", "0.25"), ("RATE_LIMIT_BURST", "7")],
    );
    assert_eq!(checked.unwrap().requests, Rate::new(7, 0.25));
}

#[test]
fn tells_all_problems_at_once() {
    let json = r#"{"limits": {"per_second": 0, "burst": 0, "store": "http://example", "expected_replicas": 0,
        "on_store_failure": {"v1": "closed", "/a1": "local_share"}, "queue_timeout_ms": 0,
        "auth_failures": {"per_minute": 0, "burst": 0}}}"#;
    assert_eq!(
        keys(check(json, &[])),
        [
            "limits.per_second",
            "limits.burst",
            "limits.auth_failures.per_minute",
            "limits.auth_failures.burst",
            "limits.expected_replicas",
            "limits.queue_timeout_ms",
            "limits.on_store_failure.v1",
            "limits.store",
        ]
    );
}

#[test]
fn a_bad_variable_is_told_under_its_name() {
    for (per_second, burst) in [("NaN", "0"), ("inf", "-1"), ("-1", "many"), ("x", "1.5")] {
        let variables =
            [("RATE_LIMIT_PER_SECOND", per_second), ("RATE_LIMIT_BURST", burst), ("DGX_GATEWAY_REDIS_URL", "x")];
        let mut found = keys(check("{}", &variables));
        found.sort();
        assert_eq!(found, ["DGX_GATEWAY_REDIS_URL", "RATE_LIMIT_BURST", "RATE_LIMIT_PER_SECOND"]);
    }
}

#[test]
fn refuses_unknown_keys() {
    for json in [r#"{"limit": {}}"#, r#"{"limits": {"per_minute": 1}}"#, r#"{"limits": {"auth_failures": {"x": 1}}}"#] {
        assert!(serde_json::from_str::<Settings>(json).is_err(), "{json}");
    }
}

#[test]
fn the_store_of_the_environment_wins_and_may_stand_in_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "redis://from-a-file\n").unwrap();
    let path = file.path().to_str().unwrap();
    for (json, variables, store) in [
        (r#"{"limits": {"store": "rediss://:pw@in-the-file:1/2"}}"#, vec![], "rediss://:pw@in-the-file:1/2"),
        (
            r#"{"limits": {"store": "redis://in-the-file"}}"#,
            vec![("DGX_GATEWAY_REDIS_URL", "redis://outside")],
            "redis://outside",
        ),
        ("{}", vec![("DGX_GATEWAY_REDIS_URL_FILE", path)], "redis://from-a-file"),
    ] {
        assert_eq!(check(json, &variables).unwrap().store, Some(StoreAddress::new(store)), "{store}");
    }
    let missing = keys(check("{}", &[("DGX_GATEWAY_REDIS_URL_FILE", "/nonexistent/url")]));
    assert_eq!(missing, ["DGX_GATEWAY_REDIS_URL_FILE"]);
}

#[test]
fn no_problem_and_no_debug_text_shows_the_password_of_the_store() {
    let json = r#"{"limits": {"store": "redis://user:hunter2@host:notaport"}}"#;
    let problems = check(json, &[("DGX_GATEWAY_REDIS_URL", "http://user:hunter2@host")]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(!format!("{problems:?}").contains("hunter2"));
    assert!(!format!("{:?}", check(json, &[]).unwrap_err()).contains("hunter2"));
    let settings: Settings = serde_json::from_str(json).unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
    let checked = check(r#"{"limits": {"store": "redis://user:hunter2@host"}}"#, &[]).unwrap();
    assert!(!format!("{checked:?}").contains("hunter2"));
}

#[test]
fn on_store_failure_takes_nothing_but_its_two_words() {
    for value in [r#""open""#, "1", r#"{"/v1": "open"}"#, "null"] {
        let json = format!(r#"{{"limits": {{"on_store_failure": {value}}}}}"#);
        assert!(serde_json::from_str::<Settings>(&json).is_err(), "{value}");
    }
}
