package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// modulePath is the module whose tree the lab builds the product from.
const modulePath = "github.com/belfrylb/belfry"

// buildSpace is the free disk space below which a first build is not begun:
// the Go build cache for Kubernetes takes about 3 GB.
const buildSpace = 4 << 30

// A toolchain is one set of programs built from one Go module under hack.
type toolchain struct {
	name     string
	dir      string // below the tree's root
	module   string // whose version names the result
	ldflags  string // %s is the version, without v
	programs map[string]string
}

var (
	etcd = toolchain{
		name:     "etcd",
		dir:      "hack/lab/etcd",
		module:   "go.etcd.io/etcd/server/v3",
		programs: map[string]string{"etcd": "go.etcd.io/etcd/server/v3"},
	}
	controlPlane = toolchain{
		name:    "kubernetes",
		dir:     "hack/lab/kubernetes",
		module:  "k8s.io/kubernetes",
		ldflags: kubernetesLdflags,
		programs: map[string]string{
			"kube-apiserver":          "k8s.io/kubernetes/cmd/kube-apiserver",
			"kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
			"kube-scheduler":          "k8s.io/kubernetes/cmd/kube-scheduler",
			"kube-proxy":              "k8s.io/kubernetes/cmd/kube-proxy",
			"kubectl":                 "k8s.io/kubernetes/cmd/kubectl",
		},
	}
	// kubelet is by itself, as only nodes with containers need it.
	kubelets = toolchain{
		name:     "kubelet",
		dir:      "hack/lab/kubernetes",
		module:   "k8s.io/kubernetes",
		ldflags:  kubernetesLdflags,
		programs: map[string]string{"kubelet": "k8s.io/kubernetes/cmd/kubelet"},
	}
	// helm is the client itself, of the version whose engine renders the chart;
	// only what installs by it needs it.
	helm = toolchain{
		name:     "helm",
		dir:      "hack/manifests",
		module:   "helm.sh/helm/v4",
		ldflags:  "-s -w -X helm.sh/helm/v4/internal/version.version=v%[1]s.%[2]s.%[3]s",
		programs: map[string]string{"helm": "helm.sh/helm/v4/cmd/helm"},
	}
)

const kubernetesLdflags = "-s -w -X k8s.io/component-base/version.gitVersion=v%[1]s.%[2]s.%[3]s -X k8s.io/component-base/version.gitMajor=%[1]s -X k8s.io/component-base/version.gitMinor=%[2]s"

// toolchainsFor are those that a run needs.
func toolchainsFor(opts Options) []toolchain {
	all := []toolchain{etcd, controlPlane}
	if opts.Containers {
		all = append(all, kubelets)
	}
	return all
}

// Programs says where each program of the lab is, by its name.
type Programs map[string]string

// CacheDir is where built programs are kept: $BELFRY_CACHE, else belfry in the
// user's cache directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("BELFRY_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory (or set BELFRY_CACHE): %w", err)
	}
	return filepath.Join(dir, "belfry"), nil
}

// Root finds the top of the Belfry source tree, from the current directory
// upwards.
func Root() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module "+modulePath+"\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside Belfry's source tree, from which the lab builds", start)
		}
	}
}

// Build returns all programs that the lab runs, building what is not in the
// cache yet. The first build takes several minutes; progress says how it goes.
func Build(ctx context.Context, progress io.Writer) (Programs, error) {
	return build(ctx, progress, append(toolchainsFor(Options{Containers: true}), helm))
}

// BuildFor builds what a run with these options needs, which [Up] would build else.
func BuildFor(ctx context.Context, progress io.Writer, opts Options) error {
	_, err := build(ctx, progress, toolchainsFor(opts))
	return err
}

func build(ctx context.Context, progress io.Writer, toolchains []toolchain) (Programs, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	goVersion, err := goVersion(ctx)
	if err != nil {
		return nil, err
	}
	all := Programs{}
	for _, tc := range toolchains {
		dir, err := tc.build(ctx, root, cache, goVersion, progress)
		if err != nil {
			return nil, fmt.Errorf("build %s: %w", tc.name, err)
		}
		for name := range tc.programs {
			all[name] = filepath.Join(dir, name)
		}
	}
	return all, nil
}

func goVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("the lab builds Kubernetes from source and needs Go: install it from https://go.dev/dl and put it on PATH")
	}
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// build returns the directory of the toolchain's programs. Its name holds all
// that went into them, so a directory that exists is complete and current.
func (tc toolchain) build(ctx context.Context, root, cache, goVersion string, progress io.Writer) (string, error) {
	src := filepath.Join(root, tc.dir)
	mod, err := os.ReadFile(filepath.Join(src, "go.mod"))
	if err != nil {
		return "", err
	}
	sum, err := os.ReadFile(filepath.Join(src, "go.sum"))
	if err != nil {
		return "", err
	}
	version, err := requiredVersion(mod, tc.module)
	if err != nil {
		return "", err
	}
	ldflags := "-s -w"
	if tc.ldflags != "" {
		parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
		ldflags = fmt.Sprintf(tc.ldflags, parts[0], parts[1], parts[2])
	}
	flags := []string{"-trimpath", "-ldflags", ldflags}

	h := sha256.New()
	for _, part := range []string{string(mod), string(sum), strings.Join(flags, " "), goVersion} {
		fmt.Fprintf(h, "%d %s\n", len(part), part)
	}
	dir := filepath.Join(cache, fmt.Sprintf("%s-%s-%s", tc.name, version, hex.EncodeToString(h.Sum(nil))[:12]))
	if isDir(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(ctx, dir+".lock", func() { fmt.Fprintf(progress, "%s: another run is building it, waiting\n", tc.name) })
	if err != nil {
		return "", err
	}
	defer unlock()
	if isDir(dir) {
		return dir, nil
	}
	if err := spaceFor(cache, buildSpace); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, ".building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	names := slices.Sorted(maps.Keys(tc.programs))
	fmt.Fprintf(progress, "building %s %s, once: %s\n", tc.name, version, strings.Join(names, ", "))
	work := &workload{begun: time.Now()}
	if work.total, err = countPackages(ctx, src, slices.Collect(maps.Values(tc.programs))); err != nil {
		return "", err
	}
	for _, name := range names {
		pkg := tc.programs[name]
		if err := goBuild(ctx, fmt.Sprintf("%s %s", name, version), src, progress, work, append(flags, "-o", filepath.Join(tmp, name), pkg)...); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", err
	}
	return dir, nil
}

// A workload is how far the programs of a toolchain are: how many packages they have
// in all, and how many are compiled.
type workload struct {
	begun       time.Time
	total, done int
}

// String says how far it is. What is in Go's cache is not compiled, so it may be less
// that is left.
func (w *workload) String() string {
	took := time.Since(w.begun)
	s := fmt.Sprintf("%d of %d packages compiled in %s", w.done, w.total, took.Round(time.Second))
	if w.done == 0 || w.done >= w.total {
		return s
	}
	left := took * time.Duration(w.total-w.done) / time.Duration(w.done)
	return fmt.Sprintf("%s, at most %s to go", s, left.Round(10*time.Second))
}

// goCommand is one of Go for the modules of the lab's programs.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	return cmd
}

// countPackages returns how many packages programs are made of. It downloads the
// modules that have them.
func countPackages(ctx context.Context, dir string, programs []string) (int, error) {
	var stderr strings.Builder
	cmd := goCommand(ctx, dir, append([]string{"list", "-deps"}, programs...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("go list: %w\n%s%s", err, strings.Join(lastLines(strings.Split(stderr.String(), "\n"), 20), "\n"), adviceFor(stderr.String()))
	}
	return bytes.Count(out, []byte("\n")), nil
}

// goBuild runs go build -v and turns its list of packages into progress.
func goBuild(ctx context.Context, what, dir string, progress io.Writer, work *workload, args ...string) error {
	start := time.Now()
	fmt.Fprintf(progress, "building %s\n", what)
	cmd := goCommand(ctx, dir, append([]string{"build", "-v"}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var (
		mu    sync.Mutex
		other []string
	)
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	read := make(chan struct{})
	go func() {
		defer close(read)
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			mu.Lock()
			if line := sc.Text(); packageLine.MatchString(line) {
				work.done++
			} else {
				other = append(other, line)
			}
			mu.Unlock()
		}
	}()
	for reading := true; reading; {
		select {
		case <-read:
			reading = false
		case <-ticker.C:
			mu.Lock()
			fmt.Fprintf(progress, "building %s: %s\n", what, work)
			mu.Unlock()
		}
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("go build: %w\n%s%s", err, strings.Join(lastLines(other, 20), "\n"), adviceFor(strings.Join(other, "\n")))
	}
	fmt.Fprintf(progress, "built %s in %s\n", what, time.Since(start).Round(100*time.Millisecond))
	return nil
}

// packageLine matches what go build -v prints for each package it compiles.
var packageLine = regexp.MustCompile(`^[a-z0-9][\w.\-/~]*$`)

// adviceFor turns the usual reasons of a failing build into what to do.
func adviceFor(output string) string {
	switch {
	case strings.Contains(output, "no space left"):
		return "\n(the disk is full: the Go build cache needs about 3 GB, see go env GOCACHE)"
	case strings.Contains(output, "dial tcp"), strings.Contains(output, "proxyconnect"), strings.Contains(output, "no such host"), strings.Contains(output, "i/o timeout"), strings.Contains(output, "disabled by GOPROXY"):
		return "\n(Go modules could not be downloaded: the first build needs the network, or a module proxy in GOPROXY)"
	}
	return ""
}

var requireLine = regexp.MustCompile(`(?m)^\s*(?:require\s+)?(\S+) (v\d+\.\d+\.\S+)`)

func requiredVersion(mod []byte, module string) (string, error) {
	for _, m := range requireLine.FindAllSubmatch(mod, -1) {
		if string(m[1]) == module {
			return string(m[2]), nil
		}
	}
	return "", fmt.Errorf("go.mod does not require %s", module)
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

func spaceFor(dir string, need uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < need {
		return fmt.Errorf("%s has %d MB free; building Kubernetes needs %d MB there and in the Go build cache", dir, free>>20, need>>20)
	}
	return nil
}

// lockFile takes an exclusive lock, which ends with the process at the latest.
// waiting is called once if somebody else holds it.
func lockFile(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func lastLines(lines []string, n int) []string {
	return lines[max(0, len(lines)-n):]
}
