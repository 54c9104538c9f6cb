// Command release makes everything that a release consists of: programs,
// images, manifests, chart, a list of what is in them, and checksums. It needs
// no network but for modules that are not in the module cache.
//
//	go run ./hack/release --output dist/release     after git tag $(cat VERSION)
//	go run ./hack/release --snapshot                whatever the tree is
//	go run ./hack/release --licenses                write docs/reference/licenses.md
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
)

// licensesPage lists the licenses of everything that is linked.
const licensesPage = "docs/reference/licenses.md"

var (
	programs      = []string{"controller", "speaker", plugin}
	architectures = []string{"amd64", "arm64"}
)

// plugin runs where people are, the other programs in the cluster.
const plugin = "kubectl-belfry"

// systems are those that a program is built for.
func systems(name string) []string {
	if name == plugin {
		return []string{"linux", "darwin", "windows"}
	}
	return []string{"linux"}
}

// fileName is the name of a program's file; without a system, of the program itself.
func fileName(name, system, arch string) string {
	if name != plugin {
		name = "belfry-" + name
	}
	if system == "" {
		return name
	}
	name += "-" + system + "-" + arch
	if system == "windows" {
		name += ".exe"
	}
	return name
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	output := flag.String("output", filepath.Join("dist", "release"), "directory to write to; what is in it is removed")
	snapshot := flag.Bool("snapshot", false, "whatever the tree is: no tag is asked for")
	licenses := flag.Bool("licenses", false, "write "+licensesPage+" and do nothing else")
	flag.Parse()
	var err error
	switch {
	case flag.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case *licenses:
		err = writeLicenses(ctx)
	default:
		err = release(ctx, *output, *snapshot)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func writeLicenses(ctx context.Context) error {
	modules, err := linked(ctx, ".")
	if err != nil {
		return err
	}
	page, err := licensePage(modules)
	if err != nil {
		return err
	}
	return os.WriteFile(licensesPage, []byte(page), 0o644)
}

// release makes all files of a release in a directory.
func release(ctx context.Context, dir string, snapshot bool) error {
	text, err := os.ReadFile("VERSION")
	if err != nil {
		return err
	}
	version := strings.TrimSpace(string(text))
	if !snapshot {
		tag, _ := run(ctx, nil, "git", "describe", "--exact-match", "--tags", "--dirty")
		if err := releasable(version, strings.TrimSpace(tag)); err != nil {
			return err
		}
	}
	commit, err := run(ctx, nil, "git", "describe", "--match=", "--always", "--abbrev=12", "--dirty=+dirty")
	if err != nil {
		return err
	}
	commit = strings.TrimSpace(commit)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	modules, err := linked(ctx, ".")
	if err != nil {
		return err
	}

	const daemon = "github.com/belfrylb/belfry/internal/daemon"
	ldflags := fmt.Sprintf("-s -w -buildid= -X %[1]s.version=%[2]s -X %[1]s.commit=%[3]s", daemon, version, commit)
	for _, arch := range architectures {
		for _, name := range programs {
			for _, system := range systems(name) {
				file := filepath.Join(dir, fileName(name, system, arch))
				say("building %s", file)
				env := []string{"CGO_ENABLED=0", "GOFLAGS=", "GOOS=" + system, "GOARCH=" + arch, "GOAMD64=v1", "GOARM64=v8.0"}
				if _, err := run(ctx, env, "go", "build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags", ldflags, "-o", file, "./cmd/"+name); err != nil {
					return err
				}
				bom, err := describe(file, fileName(name, "", ""), version, modules)
				if err != nil {
					return err
				}
				if err := os.WriteFile(file+".cdx.json", bom, 0o644); err != nil {
					return err
				}
			}
		}
	}
	say("writing the image")
	if _, err := run(ctx, nil, "go", "-C", "hack/image", "run", ".", "--version", version, "--output", absolute, "belfry"); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, "belfry.tar"), filepath.Join(dir, "belfry-image-"+version+".tar")); err != nil {
		return err
	}
	say("packing the chart")
	if _, err := run(ctx, nil, "go", "-C", "hack/manifests", "run", ".", "package", "../../manifests/helm/belfry", absolute); err != nil {
		return err
	}
	for from, to := range map[string]string{"manifests/belfry.yaml": "belfry.yaml", licensesPage: "LICENSES.md", "LICENSE": "LICENSE"} {
		if err := copyFile(from, filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	say("packing the plugin for krew")
	if err := writeKrew(dir, version); err != nil {
		return err
	}
	sums, err := checksums(dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "checksums.txt"), []byte(sums), 0o644); err != nil {
		return err
	}
	fmt.Print(sums)
	return nil
}

// releasable reports why a tree at a tag (empty: none, or with changes) is no
// release of that version.
func releasable(version, tag string) error {
	switch {
	case strings.HasSuffix(version, "-dev"):
		return fmt.Errorf("VERSION is %s: write the release's number into VERSION, the chart and the base, commit, and tag it (or give --snapshot)", version)
	case tag == "":
		return fmt.Errorf("HEAD has no tag: git tag %s (or give --snapshot)", version)
	case strings.HasSuffix(tag, "-dirty"):
		return errors.New("there are changes that are not committed (or give --snapshot)")
	case tag != version:
		return fmt.Errorf("HEAD has tag %s, and VERSION is %s", tag, version)
	}
	return nil
}

// checksums lists the SHA-256 of every file of a directory, as sha256sum does.
func checksums(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var lines []string
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", err
		}
		lines = append(lines, hex.EncodeToString(h.Sum(nil))+"  "+e.Name()+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[sha256.Size*2:], b[sha256.Size*2:]) })
	return strings.Join(lines, ""), nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// run runs a program and returns what it prints.
func run(ctx context.Context, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, complaint.String())
	}
	return string(out), nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
