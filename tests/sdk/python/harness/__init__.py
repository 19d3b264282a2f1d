"""What the tests stand on: started processes, a scripted backend, and the checks that hold for every answer."""
