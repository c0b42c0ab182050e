"""Optimizers that are networks, and their training.

    opt = LearnedOptimizer(model.parameters(), pretrained("lstm-digits"))

What is learned is a pair of pure functions, `init` and `update`, as every rule is; one unroll differentiates through
both, so that rates and betas of a rule are meta-learned by the same code as the weights of a network.
"""

from descend.learned.evolution import PersistentEvolution as PersistentEvolution
from descend.learned.files import card as card
from descend.learned.files import load as load
from descend.learned.files import pretrained as pretrained
from descend.learned.files import pretrained_card as pretrained_card
from descend.learned.files import published as published
from descend.learned.files import save as save
from descend.learned.files import shipped as shipped
from descend.learned.kinds import OnePerKind as OnePerKind
from descend.learned.lstm import CoordinatewiseLSTM as CoordinatewiseLSTM
from descend.learned.mlp import PerParameterMLP as PerParameterMLP
from descend.learned.network import Network as Network
from descend.learned.optimizer import LearnedOptimizer as LearnedOptimizer
from descend.learned.pairs import LearnedRule as LearnedRule
from descend.learned.pairs import Pair as Pair
from descend.learned.preprocessing import preprocess as preprocess
from descend.learned.problems import Classifiers as Classifiers
from descend.learned.problems import Family as Family
from descend.learned.problems import Problems as Problems
from descend.learned.problems import Quadratics as Quadratics
from descend.learned.training import MetaTraining as MetaTraining
from descend.learned.training import Recipe as Recipe
from descend.learned.training import final_losses as final_losses
from descend.learned.unrolling import Unrolled as Unrolled
from descend.learned.unrolling import initial as initial
from descend.learned.unrolling import solved as solved
from descend.learned.unrolling import unroll as unroll
