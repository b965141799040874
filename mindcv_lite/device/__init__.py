"""The device and the other processes: the only room that touches MindSpore's context and communication."""
