"""The network of the open question: 784-500-300-10, 40 epochs, no penalty.

python -m mnist_jax.main --config=configs/mlp.py

Ten seeds (--config.num_seeds=10) took 11 minutes to train on two CPU cores. Best-epoch test
accuracy, the epoch chosen on the test set: 98.22 % +- 0.09 (sample standard deviation); the
notebook's single run has 98.19 %. See experiments/dat407_a7/.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict(type_safe=False)  # every value is checked when it is read

    config.dataset = "mnist"  # or "fashion_mnist", "kmnist", "digits" (which needs no download)
    config.num_validation = 0  # training images held out to choose on; 0: the test set is looked at
    config.choose_epoch = True  # False: the last epoch counts

    # One value or several each; several span a grid, at every point of which all seeds are run.
    config.conv_features = ()  # a block each: 3x3 convolution, ReLU, 2x2 max-pool
    config.hidden_sizes = (500, 300)
    config.num_epochs = (40,)
    config.batch_size = (128,)
    config.learning_rate = (0.1,)
    config.schedule = ("constant",)  # or "cosine", "linear": from the learning rate down to 0
    config.warmup_steps = (0,)  # steps over which the learning rate first rises
    config.momentum = (0.0,)
    config.nesterov = (False,)
    config.l2 = (0.0,)  # the penalty l2 * sum(kernel**2) of the hidden kernels
    config.l2_on_output = (False,)  # True: of the output kernel too
    config.weight_decay = (0.0,)  # decoupled, of the same kernels, times the learning rate
    config.label_smoothing = (0.0,)

    config.grid = "product"  # or "list": tuples side by side; "random", "halton": search of ranges
    config.num_points = 0  # points of a search
    config.design_seed = 0  # of the search, and of the cut of the validation images
    config.num_seeds = 1  # repeated trials of each point, with the seeds --seed, --seed + 1, ...
    config.checkpoint_epochs = 1  # epochs between checkpoints, from which a stopped run goes on
    config.checkpoints_kept = 2
    config.platform = ""  # "cpu", "gpu" or "tpu"; "": the first of TPU, GPU and CPU that there is
    config.devices = 0  # that a process uses; 0: all there are, of a CPU its cores
    config.precision = "float32"  # of matrix products; faster: "tf32" (GPU), "bfloat16" (GPU, TPU)
    config.deterministic = False  # True: a GPU too gives the same bits again, at some cost

    return config
