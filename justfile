# Twelve verbs. `just VERB`; each is one line that also works without just.

# The whole gate, as CI runs it: format, lints, build, tests with real services, docs.
check:
    .ci/run

# All tests, on embedded parts; real services are used where TIDEMILL_TEST_… says where they are.
test *ARGS:
    cargo test {{ARGS}}

# The tests that are a tour of the product, one after the other, saying what they do.
tour *ARGS:
    cargo test -p tidemill --test '*' -- --test-threads=1 --nocapture {{ARGS}}

# The scheduler in worlds of random crashes, with a fake clock; seeds that failed once first.
sim *ARGS:
    cargo test -p tidemill-orchestrator --test main -- worlds --nocapture {{ARGS}}

# One world again, by the seed that a failure told: `just world 8131 300`.
world SEED STEPS="300":
    SIM_SEED={{SEED}} SIM_STEPS={{STEPS}} cargo test -p tidemill-orchestrator --test main -- one_world --nocapture

# Kills the process tree under a chain of 40 and a fan of 200 commands, 200 times each.
kills:
    TIDEMILL_KILLS=200 cargo test --workspace --all-features --test main u_killed_runs -- --test-threads=1 --nocapture

# Kills the real process 25 times at every place of the write path and 1,000 times at any moment, and compares the lake with
# what was produced. Takes hours; with services (tests/services/up kafka s3 registry) on them too.
torture *ARGS:
    TIDEMILL_TORTURE_PER_POINT=25 TIDEMILL_TORTURE_RANDOM=1000 TIDEMILL_TORTURE_SECONDS=36000 cargo test --workspace --all-features --test main torture:: -- --test-threads=1 --nocapture {{ARGS}}

# Random models over random tables, 200 of them with 50 cuts each: every incremental table against its whole SELECT. Takes hours.
models-torture *ARGS:
    TIDEMILL_MODELS=200 TIDEMILL_MODEL_CUTS=50 TIDEMILL_MODEL_SECONDS=36000 cargo test --workspace --all-features --test main models_keep_up -- --nocapture {{ARGS}}

# How fast it is.
bench *ARGS:
    cargo bench --workspace {{ARGS}}

# The real parts in containers: `just up`, `just up tools`, `just up tools cdc`.
up *PROFILES:
    for profile in {{PROFILES}}; do profiles="${profiles:-} --profile $profile"; done; docker compose ${profiles:-} up --build --wait

# Stops them; what they stored stays.
down:
    docker compose --profile '*' down

# The whole main job on embedded parts, from nothing.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Formats, and mends what lints can mend.
fix:
    cargo clippy --fix --allow-dirty --allow-staged --workspace --all-features --all-targets
    cargo fmt --all

# The code's documentation, opened in a browser.
docs:
    cargo doc --workspace --all-features --no-deps --open
