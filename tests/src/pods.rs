//! Runs Kubernetes objects as containers on one machine. It supports the fields that the example uses, and panics on others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::{cli::Ended, docker::Machine};

/// The namespace of all pods.
const NAMESPACE: &str = "default";

/// The network that all pods are in.
pub const NETWORK: &str = "pods";

/// The files of each secret, by name.
pub type Secrets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

#[derive(Debug)]
pub struct Pods<'a> {
    machine: &'a Machine,
    secrets: Secrets,
    /// The claimed volumes, and the mounted secrets of each pod.
    directory: TempDir,
}

/// A running pod. Docker restarts its containers when they end.
#[derive(Debug)]
pub struct Pod<'a> {
    machine: &'a Machine,
    name: String,
    spec: Value,
}

impl<'a> Pods<'a> {
    pub fn new(machine: &'a Machine, secrets: Secrets) -> Self {
        machine.docker(&["network", "create", NETWORK]);
        let directory = tempfile::tempdir().expect("temporary directories can be made");
        Self { machine, secrets, directory }
    }

    /// Starts the pod of a Deployment, which is reached by the name of its Service.
    pub fn of_deployment(&self, deployment: &Value, service: &Value) -> Pod<'a> {
        let pod = &deployment["spec"]["template"];
        let (wanted, labels) = (&service["spec"]["selector"], &pod["metadata"]["labels"]);
        assert!(wanted == labels && wanted.is_object(), "{wanted} {labels}");
        let ports = service["spec"]["ports"].as_array().expect("it has ports");
        for port in ports {
            // The service has no address of a proxy, so ports cannot be translated.
            assert!(known(port, &["name", "port"]), "{port} has a separate target");
        }
        let service = text(&service["metadata"]["name"]);
        self.start(&format!("{service}-0"), service, None, &pod["spec"])
    }

    /// Starts a pod of a StatefulSet, with its claimed volumes.
    pub fn of_stateful_set(&self, set: &Value, ordinal: usize) -> Pod<'a> {
        let (name, domain) = (text(&set["metadata"]["name"]), text(&set["spec"]["serviceName"]));
        let pod = format!("{name}-{ordinal}");
        let domain = format!("{domain}.{NAMESPACE}.svc.cluster.local");
        let mut spec = set["spec"]["template"]["spec"].clone();
        let claims = set["spec"]["volumeClaimTemplates"].as_array();
        for claim in claims.into_iter().flatten() {
            let name = text(&claim["metadata"]["name"]);
            let volume = serde_json::json!({
                "name": name,
                "persistentVolumeClaim": {"claimName": format!("{name}-{pod}")},
            });
            let volumes = spec["volumes"].as_array_mut();
            volumes.expect("it has volumes").push(volume);
        }
        self.start(&pod, &format!("{pod}.{domain}"), Some(&domain), &spec)
    }

    /// Removes a claimed volume.
    pub fn delete_claim(&self, claim: &str) {
        fs::remove_dir_all(self.claim(claim)).expect("there is such a volume");
    }

    fn claim(&self, claim: &str) -> PathBuf {
        self.directory.path().join("claims").join(claim)
    }

    /// Starts a container that holds the pod's network, and then the pod's containers in this network.
    fn start(&self, name: &str, alias: &str, domain: Option<&str>, spec: &Value) -> Pod<'a> {
        assert!(
            known(
                spec,
                &[
                    "automountServiceAccountToken",
                    "containers",
                    "enableServiceLinks",
                    "securityContext",
                    "terminationGracePeriodSeconds",
                    "topologySpreadConstraints",
                    "volumes",
                ]
            ),
            "{spec:#}"
        );
        // With service links, Kubernetes would add variables to each container.
        assert_eq!(spec["enableServiceLinks"], false, "{name}");
        let mut sandbox = vec!["run", "--detach", "--init", "--name", name];
        sandbox.extend(["--hostname", name, "--network", NETWORK]);
        sandbox.extend(["--network-alias", alias]);
        sandbox.extend(domain.map(|domain| ["--domainname", domain]).iter().flatten());
        self.machine.docker(&[&sandbox[..], &["debian:stable-slim", "sleep", "infinity"]].concat());
        let pod = Pod { machine: self.machine, name: name.to_owned(), spec: spec.clone() };
        for container in pod.containers() {
            let args = self.arguments(&pod, container);
            self.machine.docker(&args);
        }
        pod
    }

    /// The arguments of `docker` for a container of a pod.
    fn arguments(&self, pod: &Pod, container: &Value) -> Vec<String> {
        assert!(
            known(
                container,
                &[
                    "args",
                    "command",
                    "env",
                    "image",
                    "livenessProbe",
                    "name",
                    "ports",
                    "readinessProbe",
                    "resources",
                    "securityContext",
                    "volumeMounts",
                ]
            ),
            "{container:#}"
        );
        let mut args: Vec<_> =
            ["run", "--detach", "--restart", "always", "--name"].map(str::to_owned).to_vec();
        args.push(pod.container(text(&container["name"])));
        args.push(format!("--network=container:{}", pod.name));
        if let Some(limit) = container["resources"]["limits"]["memory"].as_str() {
            args.push(format!("--memory={}", limit.trim_end_matches('i')));
        }
        for (name, value) in variables(&pod.name, container) {
            args.push(format!("--env={name}={value}"));
        }
        args.extend(security(container));
        let group = &pod.spec["securityContext"]["fsGroup"];
        let group = group.as_u64().map(|id| u32::try_from(id).expect("it is a group"));
        args.extend(group.map(|group| format!("--group-add={group}")));
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            assert!(known(mount, &["mountPath", "name", "readOnly"]), "{mount:#}");
            let volumes = pod.spec["volumes"].as_array().expect("it has volumes");
            let mut volumes = volumes.iter();
            let volume = volumes.find(|volume| volume["name"] == mount["name"]);
            let volume = volume.unwrap_or_else(|| panic!("there is no volume for {mount}"));
            let source = self.volume(&pod.name, volume, group);
            let (source, target) = (source.display(), text(&mount["mountPath"]));
            let read_only = if mount["readOnly"] == true { ":ro" } else { "" };
            args.push(format!("--volume={source}:{target}{read_only}"));
        }
        let mut command = words(&container["command"]).into_iter();
        args.extend(command.next().map(|first| format!("--entrypoint={first}")));
        args.push(text(&container["image"]).to_owned());
        args.extend(command.chain(words(&container["args"])));
        args
    }

    /// Creates a volume's directory, with the owners and modes that a kubelet sets.
    fn volume(&self, pod: &str, volume: &Value, group: Option<u32>) -> PathBuf {
        assert!(known(volume, &["name", "persistentVolumeClaim", "secret"]), "{volume:#}");
        if let Some(claim) = volume["persistentVolumeClaim"]["claimName"].as_str() {
            let directory = self.claim(claim);
            let is_new = !directory.exists();
            fs::create_dir_all(&directory).expect("temporary directories can be written");
            if is_new {
                own(&directory, group, 0o2775);
            }
            return directory;
        }
        let secret = &volume["secret"];
        assert!(known(secret, &["defaultMode", "items", "secretName"]), "{secret:#}");
        let name = text(&secret["secretName"]);
        let files = self.secrets.get(name);
        let files = files.unwrap_or_else(|| panic!("there is no secret `{name}`"));
        let names: BTreeSet<_> = match secret["items"].as_array() {
            Some(items) => items.iter().map(|item| text(&item["key"])).collect(),
            None => files.keys().map(String::as_str).collect(),
        };
        let directory = self.directory.path().join(pod).join(text(&volume["name"]));
        fs::create_dir_all(&directory).expect("temporary directories can be written");
        // Kubernetes reads an octal number, and this parser a string.
        let mode = secret["defaultMode"].as_str().unwrap_or("0644");
        let mut mode = u32::from_str_radix(mode, 8).expect("it is octal");
        if group.is_some() {
            mode |= 0o440;
        }
        for name in names {
            let path = directory.join(name);
            fs::write(&path, &files[name]).expect("temporary directories can be written");
            own(&path, group, mode);
        }
        directory
    }
}

impl Pod<'_> {
    fn containers(&self) -> &[Value] {
        let containers = self.spec["containers"].as_array();
        containers.expect("it has containers")
    }

    /// The name of a container in Docker.
    pub fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// Runs a command in a container.
    pub fn exec(&self, container: &str, command: &[&str]) -> Ended {
        let container = self.container(container);
        let args = [&["exec", container.as_str()], command].concat();
        self.machine.try_docker(&args)
    }

    pub fn is_ready(&self) -> bool {
        self.containers().iter().all(|container| {
            let command = words(&container["readinessProbe"]["exec"]["command"]);
            let command: Vec<_> = command.iter().map(String::as_str).collect();
            command.is_empty() || self.exec(text(&container["name"]), &command).status == Some(0)
        })
    }

    /// Deletes the pod, but not its claimed volumes.
    pub fn delete(self) {
        let names = self.containers().iter();
        let names: Vec<_> =
            names.map(|container| self.container(text(&container["name"]))).collect();
        for name in &names {
            self.machine.docker(&["stop", name]);
        }
        for name in names.iter().chain([&self.name]) {
            self.machine.docker(&["rm", "--force", "--volumes", name]);
        }
    }
}

/// Whether an object has only these fields.
fn known(object: &Value, fields: &[&str]) -> bool {
    let mut names = object.as_object().into_iter().flat_map(Map::keys);
    names.all(|name| fields.contains(&name.as_str()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string"))
}

fn words(list: &Value) -> Vec<String> {
    let words = list.as_array().into_iter().flatten();
    words.map(|word| text(word).to_owned()).collect()
}

/// A container's variables, with references to earlier ones replaced.
pub fn variables(pod: &str, container: &Value) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
        let value = match (variable["value"].as_str(), field.as_str()) {
            (Some(value), _) => value,
            (None, Some("metadata.name")) => pod,
            (None, Some("metadata.namespace")) => NAMESPACE,
            _ => panic!("{variable}"),
        };
        let put_in = |value: String, (name, earlier): &(String, String)| {
            value.replace(&format!("$({name})"), earlier)
        };
        let value = variables.iter().fold(value.to_owned(), put_in);
        let name = text(&variable["name"]);
        assert!(!value.contains("$("), "{name}: {value}");
        variables.push((name.to_owned(), value));
    }
    variables
}

/// The arguments of `docker` for a container's security context.
fn security(container: &Value) -> Vec<String> {
    let context = &container["securityContext"];
    assert!(
        known(
            context,
            &[
                "allowPrivilegeEscalation",
                "capabilities",
                "readOnlyRootFilesystem",
                "runAsGroup",
                "runAsNonRoot",
                "runAsUser",
            ]
        ),
        "{context:#}"
    );
    let mut args = Vec::new();
    if let Some(user) = context["runAsUser"].as_u64() {
        args.push(format!("--user={user}:{}", context["runAsGroup"]));
    }
    if context["readOnlyRootFilesystem"] == true {
        args.push("--read-only".to_owned());
    }
    if context["allowPrivilegeEscalation"] == false {
        args.push("--security-opt=no-new-privileges".to_owned());
    }
    let dropped = words(&context["capabilities"]["drop"]).into_iter();
    args.extend(dropped.map(|name| format!("--cap-drop={name}")));
    args
}

fn own(path: &Path, group: Option<u32>, mode: u32) {
    chown(path, Some(0), group).expect("root may do so");
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("root may do so");
}
