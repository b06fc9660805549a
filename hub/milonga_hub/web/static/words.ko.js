// Made of locale/ko/LC_MESSAGES/milonga.po by `make translations`.
window.MilongaWords = { plural: (n) => Number(0), texts: {
 "%(num)s box": [
  "박스 %(num)s개"
 ],
 "no object": [
  "객체 없음"
 ],
 "%(count)s s": [
  "%(count)s초"
 ],
 "%(duration)s ago": [
  "%(duration)s 전"
 ],
 "%(count)s d": [
  "%(count)s일"
 ],
 "%(count)s h": [
  "%(count)s시간"
 ],
 "%(count)s min": [
  "%(count)s분"
 ],
 "picture": [
  "그림"
 ],
 "%(kind)s of %(picture)s": [
  "%(picture)s %(kind)s"
 ],
 "Copied": [
  "복사됨"
 ],
 "Press Ctrl-C": [
  "Ctrl-C를 누르십시오"
 ],
 "The hub answered %(status)s.": [
  "허브가 %(status)s(으)로 응답했습니다."
 ],
 "chosen because the network was in doubt": [
  "네트워크가 확신하지 못하여 선택됨"
 ],
 "chosen because it looks unlike others": [
  "다른 이미지와 달라서 선택됨"
 ],
 "chosen by chance": [
  "무작위로 선택됨"
 ],
 "%(who)s labelled it %(label)s after this page showed it: %(time)s.": [
  "이 페이지가 이미지를 보여 준 뒤에 %(who)s 님이 %(label)s(으)로 라벨을 붙였습니다: %(time)s."
 ],
 "%(who)s skipped it after this page showed it: %(time)s.": [
  "이 페이지가 이미지를 보여 준 뒤에 %(who)s 님이 건너뛰었습니다: %(time)s."
 ],
 "Two people disagree about it: %(said)s.": [
  "두 사람의 의견이 다릅니다: %(said)s."
 ],
 "Nothing waits.": [
  "대기 중인 이미지가 없습니다."
 ],
 "the device says %(answer)s": [
  "장치의 응답: %(answer)s"
 ],
 "Save these boxes": [
  "이 박스들 저장"
 ],
 "Labelled %(name)s.": [
  "라벨 지정됨: %(name)s."
 ],
 "Saved %(num)s box.": [
  "박스 %(num)s개를 저장했습니다."
 ],
 "Skipped.": [
  "건너뛰었습니다."
 ],
 "Undone.": [
  "실행 취소했습니다."
 ],
 "hub unreachable": [
  "허브에 연결할 수 없음"
 ],
 "live": [
  "실시간"
 ],
 "This is neither an .onnx file nor a .pt of ultralytics; export the network to ONNX.": [
  ".onnx 파일도 ultralytics의 .pt 파일도 아닙니다. 신경망을 ONNX로 내보내십시오."
 ],
 "This is %(size)s; the hub takes %(most)s at once.": [
  "크기가 %(size)s입니다. 허브는 한 번에 %(most)s까지 받습니다."
 ],
 "Choose a file first.": [
  "먼저 파일을 선택하십시오."
 ],
 "Sent. Reading the network…": [
  "보냈습니다. 신경망을 읽는 중…"
 ],
 "The hub cannot be reached, or cut the upload off. Is it running?": [
  "허브에 연결할 수 없거나 업로드가 끊겼습니다. 허브가 실행 중입니까?"
 ],
 "Sending %(done)s of %(all)s": [
  "보내는 중 %(done)s/%(all)s"
 ],
 "Stopped; the hub kept nothing of it.": [
  "중지했습니다. 허브에 저장된 것은 없습니다."
 ],
 "Sending…": [
  "보내는 중…"
 ],
 "This is %(size)s; the hub takes %(most)s at once. Send it in parts, each added to those before.": [
  "크기가 %(size)s입니다. 허브는 한 번에 %(most)s까지 받습니다. 나누어 보내고 각각 기존 이미지에 추가하십시오."
 ],
 "This folder holds no files.": [
  "이 폴더에는 파일이 없습니다."
 ],
 "%(folder)s with %(num)s file": [
  "%(folder)s, 파일 %(num)s개"
 ],
 "Reading the folder…": [
  "폴더를 읽는 중…"
 ],
 "The browser cannot read this folder: %(why)s": [
  "브라우저가 이 폴더를 읽을 수 없습니다: %(why)s"
 ],
 "Choose a zip or a folder first.": [
  "먼저 zip 파일이나 폴더를 선택하십시오."
 ],
 "Reading pictures: %(done)s of %(all)s": [
  "이미지를 읽는 중: %(done)s/%(all)s"
 ],
 "Sent. Reading pictures…": [
  "보냈습니다. 이미지를 읽는 중…"
 ],
 "The hub cannot be reached, or cut the upload off. Is it running, and is the archive within its limits?": [
  "허브에 연결할 수 없거나 전송이 끊어졌습니다. 허브가 실행 중인지, 압축 파일이 제한 이내인지 확인하십시오."
 ]
} };
