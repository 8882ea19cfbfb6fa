module rekindle

go 1.27
