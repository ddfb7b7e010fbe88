from rieszflow.cli import main

main()
