package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// registry is where images are named to be; nothing is pushed from here.
const registry = "ghcr.io/belfrylb/"

// nobody is the user of every image. The speaker's DaemonSet overrides it:
// Kubernetes gives no other user than root a capability that it can use.
const nobody = "65532:65532"

// MB are what sizes are counted in.
const MB = 1_000_000

// An image is what programs it is made of.
type image struct {
	name, title string
	programs    []program
	entrypoint  []string
	// limit is the most that the unpacked programs of one platform may take; 0
	// means that nobody cares.
	limit int64
}

// A program is a package of a module of this tree.
type program struct{ name, module, pkg string }

var images = []image{
	{
		name: "belfry", title: "Belfry's controller and speaker",
		programs: []program{
			{"belfry-controller", ".", "./cmd/controller"},
			{"belfry-speaker", ".", "./cmd/speaker"},
		},
		limit: 62 * MB,
	},
	{
		name: "web", title: "a small web server, for the lab",
		programs:   []program{{"web", "hack/image", "./web"}},
		entrypoint: []string{"/web"},
	},
	{
		name: "pause", title: "the process that holds a Pod's namespaces, for the lab",
		programs:   []program{{"pause", "hack/image", "./pause"}},
		entrypoint: []string{"/pause"},
	},
}

// A platform is what GOOS and GOARCH say.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

func parsePlatform(s string) (platform, error) {
	system, arch, ok := strings.Cut(s, "/")
	if !ok || system != "linux" || arch == "" || strings.Contains(arch, "/") {
		return platform{}, fmt.Errorf("platform %q: want linux/ARCHITECTURE", s)
	}
	return platform{system, arch}, nil
}

// write builds an image for all platforms and writes it to a file. The report
// says how large it is.
func (b *builder) write(ctx context.Context, i image, file string) (report string, err error) {
	stage, err := os.MkdirTemp("", "belfry-image-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range b.platforms {
		one, size, err := b.one(ctx, i, p, stage)
		if err != nil {
			return "", fmt.Errorf("%s: %w", p, err)
		}
		report += fmt.Sprintf("  %-12s %5.1f MB unpacked\n", p, float64(size)/MB)
		if i.limit > 0 && size > i.limit {
			return "", fmt.Errorf("%s: %.1f MB unpacked, more than the %d MB that it may be", p, float64(size)/MB, i.limit/MB)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        one,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: p.os, Architecture: p.arch}},
		})
	}
	dir := filepath.Join(stage, "layout")
	name := registry + i.name + ":" + b.version
	// The first annotation is OCI's, whose value is a tag; the second is what
	// containerd takes as the whole name.
	outer := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: index,
		Descriptor: v1.Descriptor{Annotations: map[string]string{
			"org.opencontainers.image.ref.name": b.version,
			"io.containerd.image.name":          name,
		}},
	})
	if _, err := layout.Write(dir, outer); err != nil {
		return "", err
	}
	digest, err := index.Digest()
	if err != nil {
		return "", err
	}
	if err := pack(dir, file, b.created); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s\n  %s\n%s  in %s\n", name, digest, report, file), nil
}

// one builds an image for one platform, a layer per program, and returns it
// with the size of its programs.
func (b *builder) one(ctx context.Context, i image, p platform, stage string) (v1.Image, int64, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var size int64
	for _, prog := range i.programs {
		file := filepath.Join(stage, p.arch+"-"+prog.name)
		if err := b.build(ctx, prog, p, file); err != nil {
			return nil, 0, err
		}
		code, err := os.ReadFile(file)
		if err != nil {
			return nil, 0, err
		}
		size += int64(len(code))
		layer, err := b.layer(prog.name, code)
		if err != nil {
			return nil, 0, err
		}
		if img, err = mutate.Append(img, mutate.Addendum{
			Layer:   layer,
			History: v1.History{Created: v1.Time{Time: b.created}, CreatedBy: "go build " + prog.pkg},
		}); err != nil {
			return nil, 0, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, 0, err
	}
	config = config.DeepCopy()
	config.Created = v1.Time{Time: b.created}
	config.OS, config.Architecture = p.os, p.arch
	config.Config = v1.Config{
		User:       nobody,
		Env:        []string{"PATH=/"},
		WorkingDir: "/",
		Entrypoint: i.entrypoint,
		Labels: map[string]string{
			"org.opencontainers.image.title":    i.title,
			"org.opencontainers.image.source":   "https://github.com/belfrylb/belfry",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  b.version,
			"org.opencontainers.image.revision": b.commit,
		},
	}
	img, err = mutate.ConfigFile(img, config)
	return img, size, err
}

// tags leave gRPC's request tracing out, which would keep the linker from
// leaving unused methods out.
const tags = "grpcnotrace"

// build builds a static program. Nothing of this machine goes into it: no
// paths, no build time, no state of the work tree.
func (b *builder) build(ctx context.Context, prog program, p platform, file string) error {
	ldflags := "-s -w -buildid="
	if prog.module == "." {
		const daemon = "github.com/belfrylb/belfry/internal/daemon"
		ldflags += fmt.Sprintf(" -X %[1]s.version=%[2]s -X %[1]s.commit=%[3]s", daemon, b.version, b.commit)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", tags, "-ldflags", ldflags, "-o", file, prog.pkg)
	cmd.Dir = filepath.Join(b.root, prog.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS="+p.os, "GOARCH="+p.arch, "GOAMD64=v1", "GOARM64=v8.0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", prog.pkg, err, out)
	}
	return nil
}

// layer is a layer with one program at the root.
func (b *builder) layer(name string, code []byte) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(code)), ModTime: b.created, Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(code); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}

// pack writes a directory as a tarball whose bytes depend only on its contents.
func pack(dir, file string, modified time.Time) (err error) {
	out, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	w := tar.NewWriter(out)
	// WalkDir goes in the order of names.
	err = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return w.WriteHeader(&tar.Header{Name: name + "/", Mode: 0o755, ModTime: modified, Typeflag: tar.TypeDir})
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), ModTime: modified, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), file)
}
