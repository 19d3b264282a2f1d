use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;

fn token(id: &str) -> NewToken {
    NewToken { id: id.to_owned(), role: Some("user".to_owned()), ..NewToken::default() }
}

fn at(path: &Path) -> TokensFile<'static> {
    static NOTHING: std::sync::OnceLock<Ambient> = std::sync::OnceLock::new();
    TokensFile::at(path.to_owned(), NOTHING.get_or_init(Ambient::default))
}

#[test]
fn the_file_is_made_for_its_owner_alone_and_holds_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth/tokens.yaml");
    assert_eq!(at(&path).list().unwrap(), []);
    let secret = at(&path).add(&token("a")).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(secret.expose_secret()));
    assert!(text.contains(&Digest::of(secret.expose_secret().as_bytes()).hex()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    at(&path).add(&token("b")).unwrap();
    assert_eq!(mode(&path), 0o600, "a file that everyone could read is closed");
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the file and its lock: {names:?}");
}

#[test]
fn a_change_that_would_not_be_valid_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.yaml");
    at(&path).add(&token("a")).unwrap();
    let before = fs::read(&path).unwrap();
    let unknown = NewToken { tenant: Some("nobody".to_owned()), ..token("b") };
    let Err(EditError::Invalid(problems)) = at(&path).add(&unknown) else { panic!("it is refused") };
    assert_eq!(problems[0].key, "tokens[1].bound_tenant");
    assert!(matches!(at(&path).add(&token("a")), Err(EditError::Exists(_))));
    assert!(matches!(at(&path).add(&token("no id")), Err(EditError::Invalid(_))));
    assert!(matches!(at(&path).revoke("b"), Err(EditError::Unknown(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn the_list_tells_roles_tenants_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.yaml");
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let all = NewToken {
        tenant: Some("acme".to_owned()),
        user: Some("me".to_owned()),
        label: Some("L".to_owned()),
        expires: Some(end),
        ..token("a")
    };
    at(&path).add(&all).unwrap();
    let listed = Listed {
        id: "a".to_owned(),
        role: Some("user"),
        tenant: Some("acme".to_owned()),
        user: Some("me".to_owned()),
        secrets: 1,
        expires: Some(end),
        label: Some("L".to_owned()),
    };
    assert_eq!(at(&path).list().unwrap(), std::slice::from_ref(&listed));
    at(&path).rotate("a", end - Duration::from_secs(1)).unwrap();
    assert_eq!(at(&path).list().unwrap(), [Listed { secrets: 2, expires: None, ..listed }]);
    at(&path).revoke("a").unwrap();
    assert_eq!(at(&path).list().unwrap(), []);
}

#[test]
fn changes_at_one_time_all_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.yaml");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let path = &path;
            scope.spawn(move || at(path).add(&token(&format!("t{n}"))).unwrap());
        }
    });
    assert_eq!(at(&path).list().unwrap().len(), 8);
}

#[test]
fn a_link_stays_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real.yaml"), dir.path().join("tokens.yaml"));
    at(&real).add(&token("a")).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    at(&link).add(&token("b")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(at(&real).list().unwrap().len(), 2);
}
