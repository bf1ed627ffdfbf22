"""What the demo trains: LeNet-5 on Fashion-MNIST, small enough to finish while one watches."""
