"""The notebook's convolutional network beyond its 99.19 %: a recipe that validation images chose.

python -m mnist_jax.main --config=configs/beyond_99_19.py --seed=4000

experiments/beyond_98_47/ has the search. All 60,000 training images, ten fresh seeds; the last
epoch counts, and the test set is scored once a trial. It takes 20 minutes on two CPU cores.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict(type_safe=False)  # every value is checked when it is read

    config.dataset = "mnist"  # or "fashion_mnist", "kmnist", "digits" (which needs no download)
    config.num_validation = 0  # training images held out to choose on; 0: the test set is looked at
    config.choose_epoch = False  # False: the last epoch counts

    # One value or several each; several span a grid, at every point of which all seeds are run.
    config.conv_features = (32, 64)  # a block each: 3x3 convolution, ReLU, 2x2 max-pool
    config.hidden_sizes = (64,)
    config.num_epochs = (15,)
    config.batch_size = (64,)
    config.learning_rate = (0.04,)
    config.schedule = ("linear",)  # or "cosine", to 0 as well; "constant"
    config.warmup_steps = (0,)  # steps over which the learning rate first rises
    config.momentum = (0.9,)
    config.nesterov = (False,)
    config.l2 = (1e-5,)  # the penalty l2 * sum(kernel**2) of the hidden kernels
    config.l2_on_output = (True,)  # True: of the output kernel too
    config.weight_decay = (0.0,)  # decoupled, of the same kernels, times the learning rate
    config.label_smoothing = (0.18,)

    config.grid = "product"  # or "list": tuples side by side; "random", "halton": search of ranges
    config.num_points = 0  # points of a search
    config.design_seed = 0  # of the search, and of the cut of the validation images
    config.num_seeds = 10  # repeated trials of each point, with the seeds --seed, --seed + 1, ...
    config.checkpoint_epochs = 1  # epochs between checkpoints, from which a stopped run goes on
    config.checkpoints_kept = 2
    config.platform = ""  # "cpu", "gpu" or "tpu"; "": the first of TPU, GPU and CPU that there is
    config.devices = 0  # that a process uses; 0: all there are, of a CPU its cores
    config.precision = "float32"  # of matrix products; faster: "tf32" (GPU), "bfloat16" (GPU, TPU)
    config.deterministic = False  # True: a GPU too gives the same bits again, at some cost

    return config
