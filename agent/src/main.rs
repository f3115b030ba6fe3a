fn main() -> cbbootstrap_cli::exit::Exit {
    cbbootstrap_agent::run()
}
