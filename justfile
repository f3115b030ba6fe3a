# Recipes for contributors; CONTRIBUTING.md explains when to use them.

_default:
    @{{ just_executable() }} --list --unsorted

# Check the formatting and run clippy
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# Run all tests
test:
    scripts/timed test cargo test --workspace

# Run end-to-end tests by name, as in `just test-one deployer config::`
test-one program *name:
    cargo test --package cbbootstrap-tests --test {{ program }} {{ name }}

# Run the long tests, which `just test` skips
test-long:
    cargo test --package cbbootstrap-agent -- --ignored --nocapture
    cargo test --package cbbootstrap-tests --test service -- --ignored --nocapture
    PROPTEST_CASES=5000 cargo test --package cbbootstrap-tests --test service fuzz::
    cargo test --package cbbootstrap-tests --test agent -- --ignored --nocapture
    cargo test --package cbbootstrap-simulation --test check -- --ignored --nocapture

# Run the function for arm64 under qemu: needs `apt-get install qemu-user libc6-arm64-cross` and Rust's target aarch64-unknown-linux-gnu
test-arm64:
    cargo test --package cbbootstrap-tests --test deployer arm64 -- --ignored --nocapture

# Run the checks and tests of CI, and the tests in containers
ci:
    .ci/run

# Run all benchmarks, or one (cold_start, deploy, service or agent), compare with the last run, and write docs/benchmarks.md
bench name="*" *args:
    cargo bench --workspace --bench '{{ name }}' -- {{ args }}

# Simulate many nodes against the limits of AWS, and write the results to docs/scale.md
simulate:
    cargo run --release --package cbbootstrap-simulation

# Update docs/commands.md, docs/benchmarks.md, docs/scale.md, the schema of cbbootstrap.yaml and the policies in templates/github-oidc-role.yaml
docs:
    UPDATE_DOCS=1 cargo test --workspace --lib --bins -- reference schema
    UPDATE_TEMPLATES=1 cargo test --package cbbootstrap permissions
    cargo run --quiet --package cbbootstrap-report

# Print the size of the code and the duration of the tests, with their limits
figures:
    scripts/figures

# Check licenses, advisories and duplicate versions of dependencies
deny:
    cargo deny check

# Check words, shell scripts and workflows
lint:
    scripts/lint

# Build a release in target/release-VERSION
release:
    scripts/release
