package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/belfrylb/belfry/hack/lab"
)

// buildBinaries builds both programs as a release does.
func buildBinaries(ctx context.Context, b *bench) error {
	root, err := lab.Root()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "belfry-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"controller", "speaker"} {
		file := filepath.Join(dir, name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", file, "./cmd/"+name)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		b.found("binary/"+name, float64(info.Size()), "")
	}
	return nil
}
