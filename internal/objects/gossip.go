package objects

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/belfrylb/belfry/internal/gossipkey"
)

// Data of the gossip Secret: the texts of keys.
const (
	GossipKey      = "key"
	GossipNext     = "next"
	GossipPrevious = "previous"
)

// Annotations of the gossip Secret. People write the first two.
const (
	// AnnotationRotate asks for another key: each new value once.
	AnnotationRotate = "belfry.dev/rotate"
	// AnnotationRotateWithout names the nodes, after commas, for which a change of keys
	// does not wait.
	AnnotationRotateWithout = "belfry.dev/rotate-without"
	// AnnotationRotated is the last request that was carried out.
	AnnotationRotated = "belfry.dev/rotated"
	// AnnotationLostKeys are the IDs, after commas, of the keys that speakers use and of
	// which the Secret has no text.
	AnnotationLostKeys = "belfry.dev/lost-keys"
)

// GossipSecret reads the gossip Secret. If it cannot, the error says why, of each text.
func GossipSecret(s *corev1.Secret) (gossipkey.State, error) {
	is := gossipkey.State{
		Exists: true, Version: s.ResourceVersion,
		Rotate: s.Annotations[AnnotationRotate], Rotated: s.Annotations[AnnotationRotated],
		Without: listed(s.Annotations[AnnotationRotateWithout]),
	}
	for _, id := range listed(s.Annotations[AnnotationLostKeys]) {
		is.Lost = append(is.Lost, gossipkey.ID(id))
	}
	var errs []error
	for _, f := range []struct {
		name string
		key  *gossipkey.Key
	}{{GossipKey, &is.Key}, {GossipNext, &is.Next}, {GossipPrevious, &is.Previous}} {
		text := s.Data[f.name]
		if len(text) == 0 {
			continue
		}
		var err error
		if *f.key, err = gossipkey.Of(text); err != nil {
			errs = append(errs, fmt.Errorf("data.%s: %w", f.name, err))
		}
	}
	return is, errors.Join(errs...)
}

// WriteGossipSecret makes the Secret say that. Texts has those of the keys.
func WriteGossipSecret(s *corev1.Secret, is gossipkey.State, texts map[gossipkey.ID][]byte) {
	data := map[string][]byte{}
	for name, k := range map[string]gossipkey.Key{GossipKey: is.Key, GossipNext: is.Next, GossipPrevious: is.Previous} {
		if !k.None() {
			data[name] = texts[k.ID()]
		}
	}
	s.Data = data
	var lost []string
	for _, id := range is.Lost {
		lost = append(lost, string(id))
	}
	for name, text := range map[string]string{
		AnnotationRotated: is.Rotated, AnnotationRotateWithout: strings.Join(is.Without, ","), AnnotationLostKeys: strings.Join(lost, ","),
	} {
		if text == "" {
			delete(s.Annotations, name)
			continue
		}
		if s.Annotations == nil {
			s.Annotations = map[string]string{}
		}
		s.Annotations[name] = text
	}
}

func listed(text string) []string {
	items := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	slices.Sort(items)
	return slices.Compact(items)
}
