//! The tools that deploy a function, used as their documentation describes.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cbbootstrap_tests::{artifact, cli::User, ministack::MiniStack, programs, python};
use jiff::Timestamp;

/// The name of the stack, or of the function.
pub const NAME: &str = "cbbootstrap";

/// The bucket that the other tools need, and the role that `cargo lambda` needs.
const BUCKET: &str = "artifacts";
const ROLE: &str = "arn:aws:iam::000000000000:role/function";

/// A tool with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `cbbootstrap deploy --no-smoke`.
    Ours,
    /// `cbbootstrap deploy`.
    WithSmokeTest,
    /// `cbbootstrap deploy --code-only --no-smoke`, which needs a stack and is not compared with the other tools.
    CodeOnly,
    /// `aws cloudformation package` and `deploy`.
    Aws,
    /// `sam deploy`.
    Sam,
    /// `cargo lambda deploy`, which deploys only the function.
    CargoLambda,
}

impl Tool {
    pub const ALL: [Self; 5] =
        [Self::Ours, Self::WithSmokeTest, Self::Aws, Self::Sam, Self::CargoLambda];

    /// The command in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "cbbootstrap deploy --no-smoke",
            Self::WithSmokeTest => "cbbootstrap deploy",
            Self::CodeOnly => "cbbootstrap deploy --code-only --no-smoke",
            Self::Aws => "aws cloudformation package, deploy",
            Self::Sam => "sam deploy",
            Self::CargoLambda => "cargo lambda deploy",
        }
    }

    pub fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::WithSmokeTest | Self::CodeOnly)
    }

    fn program(self) -> PathBuf {
        match self {
            Self::Ours | Self::WithSmokeTest | Self::CodeOnly => programs::cbbootstrap(),
            Self::Aws => bin().join("aws"),
            Self::Sam => bin().join("sam"),
            Self::CargoLambda => bin().join("cargo-lambda"),
        }
    }

    /// The arguments of its commands, in this order, in a [`Directory`].
    fn commands(self) -> Vec<Vec<String>> {
        let ours = "deploy --yes --function-zip function.zip";
        let commands = match self {
            Self::Ours => vec![format!("{ours} --no-smoke")],
            Self::WithSmokeTest => vec![ours.to_owned()],
            Self::CodeOnly => vec![format!("{ours} --no-smoke --code-only")],
            Self::Aws => vec![
                format!(
                    "cloudformation package --template-file template.yaml --s3-bucket {BUCKET} --output-template-file packaged.yaml"
                ),
                format!(
                    "cloudformation deploy --template-file packaged.yaml --stack-name {NAME} --capabilities CAPABILITY_IAM \
                     --no-fail-on-empty-changeset"
                ),
            ],
            Self::Sam => vec![format!(
                "deploy --template-file template.yaml --stack-name {NAME} --s3-bucket {BUCKET} --capabilities CAPABILITY_IAM \
                 --no-confirm-changeset --no-fail-on-empty-changeset"
            )],
            Self::CargoLambda => {
                vec![format!("lambda deploy --binary-path bootstrap --iam-role {ROLE} {NAME}")]
            }
        };
        commands
            .iter()
            .map(|command| command.split_whitespace().map(str::to_owned).collect())
            .collect()
    }
}

/// The directory of the other tools' programs.
pub fn bin() -> PathBuf {
    python::environment(&programs::workspace().join("benchmarks/deployers/requirements.txt"))
}

/// A version of the function.
#[derive(Debug)]
pub struct Code {
    zip: PathBuf,
    executable: Vec<u8>,
}

impl Code {
    /// Builds the released function; in a development build of the benchmark the tests' one, which is faster.
    pub fn build() -> Self {
        let zip = if cfg!(debug_assertions) {
            PathBuf::from(artifact::zip())
        } else {
            artifact::released_zip()
        };
        let executable = artifact::executable_of(&zip);
        Self { zip, executable }
    }

    /// The same executable plus one byte.
    pub fn changed(&self, directory: &Path) -> Self {
        let executable = [self.executable.as_slice(), &[0]].concat();
        let zip = directory.join("changed.zip");
        artifact::zip_of(&zip, "bootstrap", 0o755, &executable);
        Self { zip, executable }
    }

    pub fn zip_bytes(&self) -> u64 {
        let zip = fs::metadata(&self.zip);
        zip.expect("the zip is there").len()
    }
}

/// A home directory with the files that the tools read.
#[derive(Debug)]
pub struct Directory {
    user: User,
}

impl Directory {
    /// Writes the files to the home directory of a user of the stand-in or of a proxy in front of it.
    pub fn new(user: User) -> Self {
        let user = user
            .with("AWS_DEFAULT_REGION", "us-east-1")
            .with("SAM_CLI_TELEMETRY", "0")
            .with("CARGO_LAMBDA_COLOR", "never");
        let home = user.home.path();
        let write = |path: &str, content: &str| {
            let path = home.join(path);
            let parent = path.parent().expect("it is in the home directory");
            fs::create_dir_all(parent).expect("a directory can be created");
            fs::write(path, content).expect("a file can be written");
        };
        write("template.yaml", &template());
        // cargo lambda deploys only from a package.
        write(
            "Cargo.toml",
            "[package]\nname = \"bootstrap\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
        );
        write("src/main.rs", "fn main() {}\n");
        // SAM asks the network once a week for a newer version.
        write(
            ".aws-sam/metadata.json",
            &format!("{{\"lastVersionCheck\": {}}}", Timestamp::now().as_second()),
        );
        Self { user }
    }

    /// Writes the code to the directory.
    pub fn put(&self, code: &Code) {
        use std::os::unix::fs::PermissionsExt;
        let home = self.user.home.path();
        let executable = home.join("bootstrap");
        fs::copy(&code.zip, home.join("function.zip")).expect("a file can be copied");
        fs::write(&executable, &code.executable).expect("a file can be written");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(executable, mode).expect("a file can be made executable");
    }

    /// Deploys with this tool; returns how long it took.
    pub fn deploy(&self, tool: Tool) -> Duration {
        let program = tool.program();
        let mut time = Duration::ZERO;
        for args in tool.commands() {
            let mut command = self.user.program(&program, &args);
            let since = Instant::now();
            let output = command.output().expect("a program can be run");
            time += since.elapsed();
            assert!(
                output.status.success(),
                "{tool:?} {args:?} ended with {}\n{}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
        }
        time
    }

    /// Asserts that exactly one function exists, with the code of this directory.
    pub fn check(&self, aws: &MiniStack, tool: Tool) {
        // cargo lambda packs the executable itself.
        let has = if tool == Tool::CargoLambda {
            "__import__('zipfile').ZipFile(__import__('io').BytesIO(__import__('urllib.request').request.urlopen(\
             client('lambda').get_function(FunctionName=name)['Code']['Location']).read())).read('bootstrap') == \
             open('HOME/bootstrap', 'rb').read()"
        } else {
            "__import__('base64').b64decode(sha256) == \
             __import__('hashlib').sha256(open('HOME/function.zip', 'rb').read()).digest()"
        };
        let has = has.replace("HOME", &self.user.home.path().display().to_string());
        let functions = aws.boto(&format!(
            "[{has} for name, sha256 in [(f['FunctionName'], f['CodeSha256']) for f in \
             client('lambda').list_functions()['Functions']]]"
        ));
        assert_eq!(functions, serde_json::json!([true]), "{tool:?} has deployed something else");
    }
}

/// Empties the account, except for the bucket and role that the other tools need.
pub fn prepare(aws: &MiniStack) {
    aws.reset();
    aws.boto(&format!(
        "[client('s3').create_bucket(Bucket='{BUCKET}'), client('iam').create_role(RoleName='function', \
         AssumeRolePolicyDocument=json.dumps({{'Version': '2012-10-17', 'Statement': [{{'Effect': 'Allow', \
         'Principal': {{'Service': 'lambda.amazonaws.com'}}, 'Action': 'sts:AssumeRole'}}]}}))]"
    ));
}

/// The template as the other tools need it: the function's code is a file instead of parameters.
fn template() -> String {
    let path = programs::workspace().join("templates/stack.yaml");
    let template = fs::read_to_string(path).expect("there is a template");
    let (before, rest) = template.split_once("  ArtifactBucket:\n").expect("it has the parameter");
    let (_, rest) = rest.split_once("  TableName:\n").expect("it has the parameter after those");
    let code = "Code:\n        S3Bucket: !Ref ArtifactBucket\n        S3Key: !Ref ArtifactKey\n";
    assert!(rest.contains(code), "the function's code is elsewhere");
    format!("{before}  TableName:\n{rest}").replace(code, "Code: function.zip\n")
}
