"""Small exports of other tools, of the repository's clips: each in the form that its document shows.

CVAT's XML 1.1 (docs.cvat.ai, XML annotation format), CocoVID (MMTracking, Customize Datasets), YouTube-VIS, VIA 3
(_via_data.js of 3.0.x writes it), Ultralytics' data.yaml, AVA's csv. They are written by hand after these documents.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

Tree = dict[str, Any]


def cvat_video(source: str = "walk.mp4", size: tuple[int, int] = (640, 360)) -> str:
    """A track with a keyframe on 0 and 10 that ends at 20, one that is turned, and a line, of a video task."""
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>7</id><name>walking</name><size>205</size><mode>interpolation</mode><overlap>5</overlap>
      <labels><label><name>person</name><type>rectangle</type><attributes><attribute>
        <name>action</name><mutable>True</mutable><input_type>select</input_type>
        <default_value>__undefined__</default_value><values>__undefined__
walk
stand</values></attribute></attributes></label></labels>
      <original_size><width>{size[0]}</width><height>{size[1]}</height></original_size>
      <source>{source}</source>
    </task>
    <dumped>2026-11-30 08:00:00+00:00</dumped>
  </meta>
  <track id="0" label="person" source="manual">
    <box frame="0" keyframe="1" outside="0" xtl="64.00" ytl="36.00" xbr="128.00" ybr="180.00" z_order="0">
      <attribute name="action">walk</attribute>
    </box>
    <box frame="10" keyframe="1" outside="0" xtl="128.00" ytl="36.00" xbr="192.00" ybr="180.00" z_order="0">
      <attribute name="action">stand</attribute>
    </box>
    <box frame="12" keyframe="1" outside="1" xtl="128.00" ytl="36.00" xbr="192.00" ybr="180.00" z_order="0">
      <attribute name="action">stand</attribute>
    </box>
  </track>
  <track id="1" label="person" source="manual">
    <box frame="5" keyframe="1" outside="0" rotation="90.00" xtl="300" ytl="100" xbr="400" ybr="150" z_order="0">
      <attribute name="action">__undefined__</attribute>
    </box>
    <box frame="6" keyframe="1" outside="1" occluded="0" xtl="300" ytl="100" xbr="400" ybr="150" z_order="0">
    </box>
  </track>
  <track id="2" label="person" source="manual">
    <polyline frame="5" keyframe="1" outside="0" occluded="0" points="1,1;2,2" z_order="0"></polyline>
  </track>
</annotations>
"""


def cvat_images(names: tuple[str, ...] = ("a.png", "b.png")) -> str:
    """Boxes of people and a car, and a polygon, in pictures of an image task."""
    first, second = names
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><name>stills</name><size>2</size><mode>annotation</mode></task></meta>
  <image id="0" name="{first}" width="96" height="64" subset="train">
    <box label="person" source="manual" occluded="0" xtl="9.6" ytl="6.4" xbr="48" ybr="32" z_order="0">
      <attribute name="action">walk</attribute>
    </box>
    <box label="car" source="manual" occluded="0" xtl="50" ytl="6.4" xbr="90" ybr="32" z_order="0"></box>
  </image>
  <image id="1" name="{second}" width="96" height="64" subset="validation">
    <polygon label="sit" source="manual" occluded="0" points="0.00,0.00;48.00,0.00;24.00,32.00" z_order="0"></polygon>
  </image>
</annotations>
"""


def coco_video() -> Tree:
    """CocoVID: two pictures of a video, somebody with an instance_id, a crowd, and what is wrong with some."""
    return {
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "wave"}],
        "videos": [{"id": 1, "name": "street", "fps": 10, "width": 96, "height": 64}],
        "images": [
            {"id": 11, "video_id": 1, "frame_id": 0, "file_name": "street/000001.png", "width": 96, "height": 64},
            {"id": 12, "video_id": 1, "frame_id": 2, "file_name": "street/000003.png", "width": 96, "height": 64},
            {"id": 13, "video_id": 1, "frame_id": 3, "file_name": "street/gone.png", "width": 96, "height": 64},
        ],
        "annotations": [
            {"id": 1, "image_id": 11, "video_id": 1, "category_id": 2, "instance_id": 40, "bbox": [9.6, 6.4, 48, 32]},
            {"id": 2, "image_id": 12, "video_id": 1, "category_id": 2, "instance_id": 40, "bbox": [19.2, 6.4, 48, 32]},
            {"id": 3, "image_id": 12, "category_id": 1, "instance_id": 41, "bbox": [48, 0, 48, 64], "iscrowd": 1},
            {"id": 4, "image_id": 13, "category_id": 1, "bbox": [0, 0, 48, 64]},
            {"id": 5, "image_id": 99, "category_id": 1, "bbox": [0, 0, 48, 64]},
            {"id": 6, "image_id": 11, "category_id": 9, "bbox": [0, 0, 48, 64]},
            {"id": 7, "image_id": 11, "category_id": 1, "bbox": [0, 0, "wide", 64]},
            {"id": 8, "image_id": 11, "category_id": 1, "segmentation": [[1, 1, 2, 2, 3, 3]]},
            {"id": 9, "image_id": 11, "category_id": 1, "bbox": [100, 0, 20, 20]},
        ],
    }


def youtube_vis() -> Tree:
    """A video's file names, and an annotation with a box for each, or none."""
    files = ["street/000001.png", "street/000003.png"]
    return {
        "categories": [{"id": 1, "name": "jump"}],
        "videos": [{"id": 5, "file_names": files, "width": 96, "height": 64, "length": 2}],
        "annotations": [{"id": 3, "video_id": 5, "category_id": 1, "bboxes": [None, [9.6, 6.4, 48, 32]]}],
    }


def via_project() -> Tree:
    """A video with a rectangle at 0.5 s that has two actions of a checkbox, one without a time, a stretch of time."""
    attributes = {
        "1": {"aname": "action", "anchor_id": "FILE1_Z1_XY1", "type": 2, "options": {"0": "walk", "1": "talk"}},
        "2": {"aname": "person", "anchor_id": "FILE1_Z1_XY1", "type": 1, "options": {}},
    }
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "pname": "walking", "vid_list": ["1"], "created": 0, "rev": "1"},
        "config": {},
        "attribute": attributes,
        "file": {"1": {"fid": "1", "fname": "walk.mp4", "type": 4, "loc": 1, "src": ""}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {
            "1_a": {"vid": "1", "flg": 0, "z": [0.5], "xy": [2, 64, 36, 64, 144], "av": {"1": "0,1", "2": "anna"}},
            "1_b": {"vid": "1", "flg": 0, "z": [], "xy": [2, 64, 36, 64, 144], "av": {}},
            "1_c": {"vid": "1", "flg": 0, "z": [0.2, 1.5], "xy": [], "av": {"1": "0"}},
            "1_d": {"vid": "1", "flg": 0, "z": [1.0], "xy": [3, 64, 36, 20], "av": {}},
            "1_e": {"vid": "1", "flg": 0, "z": [90.0], "xy": [2, 64, 36, 64, 144], "av": {"1": "0"}},
        },
    }


def via_csv() -> str:
    """The same project's rectangle, as VIA exports it to CSV."""
    attributes = json.dumps(via_project()["attribute"])
    return (
        "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n"
        '# SHAPE_ID = {"POINT":1,"RECTANGLE":2,"CIRCLE":3}\n'
        f"# ATTRIBUTE = {attributes}\n"
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata\n"
        '"1_a","[""walk.mp4""]",0,"[0.5]","[2,64,36,64,144]","{""1"":""0,1"",""2"":""anna""}"\n'
    )


def ava_rows() -> str:
    """Seconds from 902 on: two labels of one person, a second without anybody, one too late, one too early."""
    return (
        "walk,0902,0.1,0.1,0.3,0.5,1,7\nwalk,0902,0.1,0.1,0.3,0.5,2,7\nwalk,0903.5,0.2,0.1,0.4,0.5,1,\n"
        "walk,0904\nwalk,0999,0.1,0.1,0.3,0.5,1,7\nwalk,0901,0.1,0.1,0.3,0.5,1,7\nwalk,0902,0.1,0.1,0.3,0.5,9,7\n"
    )


AVA_LABELS = 'item {\n  name: "walk"\n  id: 1\n}\nitem {\n  name: "wave"\n  id: 2\n}\n'


def draw_pictures(folder: Path, *names: str) -> None:
    """Pictures of 96 x 64 px, each of another grey."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((64, 96, 3), 40 + 60 * number, np.uint8))


def write_json(path: Path, values: Tree) -> Path:
    """A file of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    return path
