"""python -m proxyclip"""

from proxyclip.command.main import main

main()
