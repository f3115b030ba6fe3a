fn main() -> cbbootstrap_cli::failure::Exit {
    cbbootstrap_agent::run()
}
