// Command image builds Belfry's programs for every platform and writes them as
// a container image, without Docker: an OCI layout in a tarball, with one
// manifest per platform. The same commit gives the same bytes.
//
//	go -C hack/image run . --output ../../dist
//	ctr --namespace k8s.io images import dist/belfry.tar
//
// It writes two images more, for the lab: a small web server and a Pod's first
// process.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	output := flags.String("output", filepath.Join("..", "..", "dist"), "directory to write NAME.tar into")
	platforms := flags.String("platforms", "linux/amd64,linux/arm64", "platforms, separated by commas")
	version := flags.String("version", "", "the image's tag; default: the tree's VERSION")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: image [flags] [NAME...]\n\nimages:")
		for _, i := range images {
			fmt.Fprintf(flags.Output(), "  %-7s %s\n", i.name, i.title)
		}
		fmt.Fprintln(flags.Output(), "\nflags:")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	b, err := newBuilder(ctx, filepath.Join("..", ".."), *version)
	if err != nil {
		return err
	}
	for platform := range strings.SplitSeq(*platforms, ",") {
		p, err := parsePlatform(platform)
		if err != nil {
			return err
		}
		b.platforms = append(b.platforms, p)
	}
	chosen, err := choose(flags.Args())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*output, 0o755); err != nil {
		return err
	}
	for _, i := range chosen {
		file := filepath.Join(*output, i.name+".tar")
		report, err := b.write(ctx, i, file)
		if err != nil {
			return fmt.Errorf("%s: %w", i.name, err)
		}
		fmt.Print(report)
	}
	return nil
}

// choose returns the images of the given names; all when there are none.
func choose(names []string) ([]image, error) {
	if len(names) == 0 {
		return images, nil
	}
	var chosen []image
next:
	for _, name := range names {
		for _, i := range images {
			if i.name == name {
				chosen = append(chosen, i)
				continue next
			}
		}
		return nil, fmt.Errorf("there is no image %q", name)
	}
	return chosen, nil
}

// A builder knows the tree and what is noted about it in an image.
type builder struct {
	root, version, commit string
	created               time.Time
	platforms             []platform
}

// newBuilder asks git for the commit and its time. Outside of a clone there is
// no commit, and the time is SOURCE_DATE_EPOCH or 1970.
func newBuilder(ctx context.Context, root, version string) (*builder, error) {
	released, err := os.ReadFile(filepath.Join(root, "VERSION"))
	if err != nil {
		return nil, err
	}
	b := &builder{root: root, version: cmp.Or(version, strings.TrimSpace(string(released)))}
	git := func(args ...string) string {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	b.commit = cmp.Or(git("describe", "--match=", "--always", "--abbrev=12", "--dirty=+dirty"), "unknown")
	seconds := cmp.Or(os.Getenv("SOURCE_DATE_EPOCH"), git("log", "-1", "--format=%ct"), "0")
	epoch, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	b.created = time.Unix(epoch, 0).UTC()
	return b, nil
}
