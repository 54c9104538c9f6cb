package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

var (
	amd64 = platform{"linux", "amd64"}
	arm64 = platform{"linux", "arm64"}
)

func testBuilder(t *testing.T, root string, platforms ...platform) *builder {
	t.Helper()
	return &builder{root: root, version: "v1.2.3", commit: "0123456789ab", created: time.Unix(1_700_000_000, 0).UTC(), platforms: platforms}
}

// written writes an image and returns the file and the index in it.
func written(t *testing.T, b *builder, i image) (file string, outer, index v1.ImageIndex) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "image.tar")
	report, err := b.write(t.Context(), i, file)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	dir := t.TempDir()
	unpack(t, file, dir)
	outer, err = layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(outer); err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("the layout has %d entries, want one", len(manifest.Manifests))
	}
	index, err = outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return file, outer, index
}

func unpack(t *testing.T, file, dir string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, b, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func find(t *testing.T, name string) image {
	t.Helper()
	chosen, err := choose([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	return chosen[0]
}

// Another directory, another time, another user's settings: the same bytes.
func TestTwoBuildsGiveTheSameBytes(t *testing.T) {
	first, _, _ := written(t, testBuilder(t, filepath.Join("..", ".."), amd64, arm64), find(t, "web"))
	elsewhere := t.TempDir()
	if err := os.CopyFS(filepath.Join(elsewhere, "hack", "image"), os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOFLAGS", "-ldflags=-X=main.where=elsewhere")
	t.Setenv("GOAMD64", "v3")
	second, _, _ := written(t, testBuilder(t, elsewhere, amd64, arm64), find(t, "web"))
	if a, b := contents(t, first), contents(t, second); !bytes.Equal(a, b) {
		t.Errorf("two builds differ: %d bytes, and %d", len(a), len(b))
	}
	third := testBuilder(t, elsewhere, amd64, arm64)
	third.version = "v1.2.4"
	other, _, _ := written(t, third, find(t, "web"))
	if bytes.Equal(contents(t, first), contents(t, other)) {
		t.Error("another version gives the same bytes: the test sees nothing")
	}
}

func contents(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// containerd, Docker and registries find what they look for.
func TestTheTarballNamesItselfAndItsPlatforms(t *testing.T) {
	_, outer, index := written(t, testBuilder(t, filepath.Join("..", ".."), amd64, arm64), find(t, "pause"))
	top, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"org.opencontainers.image.ref.name": "v1.2.3",
		"io.containerd.image.name":          "ghcr.io/belfrylb/pause:v1.2.3",
	}
	if got := top.Manifests[0].Annotations; !maps.Equal(got, want) {
		t.Errorf("annotations %v, want %v", got, want)
	}
	inner, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, m := range inner.Manifests {
		platforms = append(platforms, m.Platform.String())
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.OS+"/"+config.Architecture != m.Platform.String() {
			t.Errorf("the manifest of %s has a config of %s/%s", m.Platform, config.OS, config.Architecture)
		}
		if config.Config.User != nobody || !slices.Equal(config.Config.Entrypoint, []string{"/pause"}) {
			t.Errorf("%s runs %q as %q", m.Platform, config.Config.Entrypoint, config.Config.User)
		}
		for _, key := range []string{"version", "revision", "licenses", "source", "title"} {
			if config.Config.Labels["org.opencontainers.image."+key] == "" {
				t.Errorf("%s has no label %s", m.Platform, key)
			}
		}
		if len(config.History) != len(config.RootFS.DiffIDs) {
			t.Errorf("%s: %d layers, and %d lines of history", m.Platform, len(config.RootFS.DiffIDs), len(config.History))
		}
	}
	if !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms %v", platforms)
	}
}

// The image holds the two programs, static, and nothing else; they say what
// they were built from, and stay within the limit.
func TestTheImageHoldsTheTwoProgramsAlone(t *testing.T) {
	_, _, index := written(t, testBuilder(t, filepath.Join("..", ".."), amd64), find(t, "belfry"))
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var names []string
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
			if h.Mode != 0o755 || h.Uid != 0 || !h.ModTime.Equal(time.Unix(1_700_000_000, 0)) {
				t.Errorf("%s: mode %o, owner %d, time %s", h.Name, h.Mode, h.Uid, h.ModTime)
			}
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, h.Name), b, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		r.Close()
	}
	if want := []string{"belfry-controller", "belfry-speaker"}; !slices.Equal(names, want) {
		t.Fatalf("the image holds %v, want %v", names, want)
	}
	for _, name := range names {
		// With nothing round it, as in the image.
		cmd := exec.Command(filepath.Join(dir, name), "--version")
		cmd.Env = []string{}
		out, err := cmd.CombinedOutput()
		want := regexp.MustCompile(`^` + name + ` v1\.2\.3 \(commit 0123456789ab, go1\.\S+, linux/amd64\)\n$`)
		if err != nil || !want.Match(out) {
			t.Errorf("%s --version: %v, %q; want %s", name, err, out, want)
		}
	}
}

func TestAnImageThatHasGrownIsRefused(t *testing.T) {
	i := find(t, "pause")
	i.limit = 1000
	if _, err := testBuilder(t, filepath.Join("..", ".."), amd64).write(t.Context(), i, filepath.Join(t.TempDir(), "x.tar")); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an image over its limit: %v", err)
	}
	if i := find(t, "belfry"); i.limit == 0 {
		t.Error("nobody watches the size of the image")
	}
}

func TestOnlyPlatformsOfLinuxAreTaken(t *testing.T) {
	for text, want := range map[string]platform{
		"linux/amd64": amd64, "linux/arm64": arm64,
		"": {}, "amd64": {}, "windows/amd64": {}, "linux/": {}, "linux/arm/v7": {},
	} {
		got, err := parsePlatform(text)
		if got != want || (err == nil) != (want != platform{}) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// The Dockerfile cannot be run everywhere; what it has in common with the image
// that is written here is compared.
func TestTheDockerfileBuildsTheSame(t *testing.T) {
	file := string(contents(t, filepath.Join("..", "..", "Dockerfile")))
	b, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(b)
	for _, want := range []string{
		"golang:" + string(version[1]) + " ",
		"FROM scratch\n",
		"USER " + nobody + "\n",
		"ENV PATH=/\n",
		"-trimpath -buildvcs=false -tags " + tags,
		`-ldflags "-s -w -buildid= -X github.com/belfrylb/belfry/internal/daemon.version=$VERSION -X github.com/belfrylb/belfry/internal/daemon.commit=$COMMIT"`,
		"COPY --from=build /out/belfry-controller /belfry-controller\n",
		"COPY --from=build /out/belfry-speaker /belfry-speaker\n",
		find(t, "belfry").title,
	} {
		if !strings.Contains(file, want) {
			t.Errorf("the Dockerfile has no %q", want)
		}
	}
}
