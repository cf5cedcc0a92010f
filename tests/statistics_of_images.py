"""Images in units of a model's training data, and back: (..., 3, H, W), mean and std have three numbers."""


def normalise(images, mean, std):
    return (images - images.new_tensor(mean)[:, None, None]) / images.new_tensor(std)[:, None, None]


def denormalise(images, mean, std):
    return images * images.new_tensor(std)[:, None, None] + images.new_tensor(mean)[:, None, None]
