"""The mean of the words' vectors, and a linear layer over it."""

from torch import nn


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 2)
        self.head = nn.Linear(2, 2)

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


def init_function():
    return Texts()
