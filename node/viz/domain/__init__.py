"""What Viz means, without any I/O: values, rules, signed structures, and the ports they see."""
