package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A tree builds programs of the source tree for a run.
type tree struct {
	run *run
}

// labPrograms are this tree's programs that are parts of the lab.
var labPrograms = []string{"lab", "node"}

// build builds a program of this tree and returns its path in the run's own
// directory, so that a later build does not change what a restart starts. name
// is "controller", "speaker" or one of labPrograms.
func (t *tree) build(ctx context.Context, name string) (string, error) {
	ofLab := slices.Contains(labPrograms, name)
	dest := filepath.Join(t.run.dir, "bin", name)
	if !ofLab {
		dest = filepath.Join(t.run.dir, "bin", "belfry-"+name)
	}
	if _, err := os.Stat(dest); err == nil {
		return dest, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	// The flags are those of go run and go test, so that packages are compiled
	// once for all of them.
	pkg, args := "./cmd/"+name, []string{"install", "-tags=grpcnotrace"} // as in a release
	switch {
	case ofLab:
		pkg = "./hack/lab/cmd/" + name
	case t.run.options.Race:
		args = append(args, "-race")
	case t.run.options.Profile:
		args[1] += ",profile"
	}
	// go install leaves a program alone that is up to date; go build -o links it
	// anew each time. One place per tree and flags, then.
	key := sha256.Sum256([]byte(root + strings.Join(args, " ")))
	bin := filepath.Join(cache, "tree-"+hex.EncodeToString(key[:6]))
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, bin+".lock", func() { t.run.say("another run is building this tree, waiting") })
	if err != nil {
		return "", err
	}
	defer unlock()
	begun := time.Now()
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -buildvcs=false"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	t.run.say("built %s in %s", pkg, time.Since(begun).Round(100*time.Millisecond))
	if err := os.Link(filepath.Join(bin, name), dest); err == nil || errors.Is(err, fs.ErrExist) {
		return dest, nil
	}
	// Another file system: copy.
	b, err := os.ReadFile(filepath.Join(bin, name))
	if err != nil {
		return "", err
	}
	return dest, os.WriteFile(dest, b, 0o755)
}
