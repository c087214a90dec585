"""How Chinese texts are read before wetext reads what is left: codes, ranges, money, dates, units, Latin dots.

No \b and no \\w in a pattern: to Python a Chinese character is a letter too.
"""

import re

from text.rules import Match, Rule
from text.signs import ADDRESS, sign_rules, spoken_address
from text.units import CHINESE_UNIT, NUMBER, chinese_unit

_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
_CODE_DIGITS = str.maketrans("0123456789", "零幺二三四五六七八九")  # as a telephone number is read
_HAN = "\u4e00-\u9fff"

# A number is a code behind or before one of these; "号" and "号码" may follow the first
_CODES = (
    "身份证|卡号|[账帐][号户]|QQ|微信|(?:验证|校验|动态|激活|邀请|取件|提货|兑换|识别|提取|确认|机器|邮政编|条形?|车架|区|代)码|密码|口令|邮编|"
    "[单票证书学工税编房件案图版航序列批车牌船桌楼会员客户手机电话]号|编码|订单|车牌|航班|电话|手机|座机|热线|客服|传真|分机|转|总机|短信|会议ID|代号|"
    "报警|急救|火警|救护|匪警|查询台|号码"
)
_DIAL = "拨打?|打(?![折工到出])|致电|呼叫|联系|叫|拨通|发短信[到给]|发送?[到至]"
_BETWEEN = r"(?:号码|号|码|是|为|分别|电话|热线|客服|急救|报警|了|通|过|的|请|就|给|到|[:： ])*"
_AFTER = "热线|客服|急救|救护|报警|火警|接警|指挥中心|民警|短信|网站|官网|平台"
# ... but an amount before one of these
_COUNTED = (
    "年月日时点分秒天周个人次元块角毛条位部台名万亿千百多余岁米斤克度倍届款张份步架通家只件套本辆页种字公副场篇亩毫下顿回声遍枚支根瓶杯碗"
    "箱包吨厘英平立间户笔封段层级瓦伏吋寸起例组所项颗粒批座站圈趟针轮股票盒碗盘桶袋把匹头棵片幢栋道"
    "%‰℃°"
)
_NOT_COUNTED = rf"(?! ?\d|[.,:/~-]\d| ?[{_COUNTED}A-Za-z]|[到至]\d)"
_LIST = r"(?:(?:、|，|,|和|或者?|及|/|还是)+\d{3,})*"

_MONEY = {
    **dict.fromkeys(["¥", "￥", "RMB", "CNY"], "元"),
    **dict.fromkeys(["$", "US$", "USD"], "美元"),
    **dict.fromkeys(["HK$", "HKD"], "港元"),
    **{"NT$": "新台币", "A$": "澳元", "AU$": "澳元", "C$": "加元", "S$": "新加坡元", "JPY": "日元"},
    **dict.fromkeys(["€", "EUR"], "欧元"),
    **dict.fromkeys(["£", "GBP"], "英镑"),
}
_CURRENCY = "|".join(map(re.escape, sorted(_MONEY, key=len, reverse=True)))
_PRICE = "元|块|圆|[美港日欧澳加]元|美金|英镑|新?台币|新加坡元"
_ABBREVIATIONS = {"Mr": "Mister", "Mrs": "Missis", "Dr": "Doctor", "Prof": "Professor", "No": "number", "no": "number"}


def cardinal(number: int) -> str:
    """A whole number below 100 000 000 in Chinese."""
    if number >= 10_000:
        rest = number % 10_000
        return cardinal(number // 10_000) + "万" + ("零" * (0 < rest < 1000) + cardinal(rest) if rest else "")
    named = "".join(digit + unit for digit, unit in zip(f"{number:04}", "千百十 ", strict=True))
    spoken = re.sub("(?:0.)+", "0", named).strip("0 ").replace(" ", "").translate(_DIGITS)
    return re.sub("^一十", "十", spoken) or "零"


def _code(match: Match) -> str:
    """The digits of the last group one by one, with a pause for each blank or hyphen; what is before it stays."""
    digits = match[match.lastindex or 0]
    spoken = re.sub("[ -]+", "，", digits.replace("+", "加")).translate(_CODE_DIGITS)
    return match[0][: len(match[0]) - len(digits)] + spoken


def _digits(match: Match) -> str:
    """The match with its digits one by one."""
    return match[0].translate(_DIGITS)


def _span(match: Match) -> str:
    """A range, where the second number is the greater one; 5-3 may be anything."""
    return f"{match[1]}到{match[2]}" if float(match[1]) < float(match[2]) else match[0]


def _money(match: Match) -> str:
    """An amount with the currency behind it that is written, else that of its sign."""
    sign, amount, other, size, unit = match.groups()
    return f"{amount}{'到' + other if other else ''}{size or ''}{unit or _MONEY[sign]}"


# fmt: off
RULES = [
    Rule(ADDRESS, lambda match: spoken_address(match[0], "zh").translate(_DIGITS), "上www.baidu.com，写abc@163.com", "上www点baidu点com，写abc艾特一六三点com", "OK.Then"),
    # codes: digit by digit
    Rule(rf"(?:{_CODES}){_BETWEEN}[A-Za-z]{{0,4}}(\+?\d(?:[ -]?\d){{2,}}[Xx]?{_LIST}){_NOT_COUNTED}", _code,
         "验证码：483920，邮编 100871", "验证码：四八三九二零，邮编幺零零八七幺", "手机5000元，密码错误3次，电话费120"),
    Rule(rf"(?:{_DIAL}){_BETWEEN}(\d{{3,}}(?:-\d+)*{_LIST}){_NOT_COUNTED}", _code,
         "快打120或119，再拨10086", "快打幺二零或幺幺九，再拨幺零零八六", "打了110分，打到120"),
    Rule(rf"(?<![\d.])(\d{{3,5}})(?={_AFTER})", _code, "12345热线，120急救车", "幺二三四五热线，幺二零急救车", "120台客服"),
    Rule(r"(?:分机|[\d零幺二三四五六七八九]转)号?(\d{2,})(?!\d)", _code, "分机8012", "分机八零幺二", "转8次"),
    Rule(r"(?<![\d.,])(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?![\d-]| ?\d|:\d)", lambda match: match[0].replace(" ", ""),
         "10 000元", "一万元", "1990 100"),
    Rule(r"[(（](0\d{2,3})[)）] ?(?=\d{7,8}(?!\d))", r"\1 ", "(010)12345678", "零幺零，幺二三四五六七八"),
    Rule(r"(?<![\d.,A-Za-z-])((?:\+?86[ -]?)?1[3-9]\d[ -]\d{4}[ -]\d{4}|\+\d{2}[ -]?\d[\d -]{6,}\d|0\d{2,3} \d{7,8}"
         r"|[48]00[ -]\d{3}[ -]\d{4}|\d{4}(?: \d{4}){2,}|\d{13,})(?![\d-])", _code,
         "138 1234 5678", "幺三八，幺二三四，五六七八", "8000 1000"),
    Rule(rf"(?<![A-Za-z\d])(?!(?:{_CURRENCY}))[A-Z]{{1,3}}(\d{{4,}})(?![\dA-Za-z]|[.,]\d|[{_COUNTED.replace('次', '')}])", _code,
         "CA1234航班", "CA幺二三四航班", "RMB5000"),
    Rule(r"(?<![\d.-])\d+(?:-\d+)+(?=号?[室房])", lambda match: match[0].replace("-", "杠"), "3-2-501室", "三杠二杠五零幺室"),
    Rule(r"(?<![\d.,])(\d{3,4})(?=号?房(?!间)|室(?![内外]))", _code, "1101室", "幺幺零幺室", "120室内"),
    Rule(r"(?<![\d.,:/A-Za-z-])0\d{2,}(?![\d.,:/-]\d)", _digits, "0012", "零零一二", "0.012"),
    # blanks and commas that group thousands
    Rule(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+)(\.(?:0[1-9]|1[0-2])(?![\d元块万亿]))?(?!,?\d)",
         lambda match: match[1].replace(",", "") + (match[2] or "").replace(".", "点").translate(_DIGITS),
         "3,050.12点", "三千零五十点一二点"),
    Rule(r"(?<=\d)([,，])(?=(?:-|[¥￥$€£])?\d)", r"\1 ", "他有2，3个苹果", "他有二，三个苹果"),
    # money
    Rule(rf"(?<![A-Za-z])({_CURRENCY}) ?({NUMBER})(?:[-~]({NUMBER}))?([百千万亿]+)?(?!\.?\d)({_PRICE})?", _money,
         "¥5，$5.5万，US$100", "五元，五点五万美元，一百美元"),
    Rule(rf"({NUMBER})([百千万亿]*) ?([$€£]|RMB|CNY|USD|HKD|EUR)(?![A-Za-z\d])", lambda m: m[1] + m[2] + _MONEY[m[3]],
         "100RMB", "一百元"),
    Rule(r"(?<![\d.])(\d+)(?:\.00?|(\.\d)0)(?=[元块])", r"\1\2", "12.50元，9.00元", "十二点五元，九元"),
    # ranges and scores
    Rule(r"(?<!\d)([12]\d{3})[-~至到/]([12]\d{3}|\d\d)(?=学年|赛季|财年|年|[，。、；！？）)]|$)",
         lambda match: f"{match[1]}到{match[2]}".translate(_DIGITS), "2019-2021年，2020/21赛季", "二零一九到二零二一年，二零二零到二一赛季", "1990-5年"),
    Rule(r"(?<=[年月日号点时分秒元块万亿度岁米斤周楼层级%‰])[-~—](?=\d)(?<=\d.-|\d.~|\d.—)", "到", "2点-3点", "两点到三点", "周五-5点"),
    Rule(rf"(\d ?([A-Za-z]+))[-~](?={NUMBER} ?\2(?![A-Za-z]))", r"\1到", "3kg-5kg", "三千克到五千克", "3a-5b"),
    Rule(rf"({NUMBER})[-~]({NUMBER}[%‰])", r"\1%到\2", "5-10%", "百分之五到百分之十"),
    Rule(r"(?<![\d.:-])(\d+)[-:](\d+)(?=(?:的[总大]?比分)?(?:战胜|[击打]败|[获险大完]胜|不敌|惜败|落败|战平|领先|落后|取胜|横扫|[打]?[赢输]|[胜负平]))", r"\1比\2",
         "以3-0获胜", "以三比零获胜"),
    Rule(r"(比分[是为：:]*)(\d+)[-:](\d+)(?![\d.:-])", r"\1\2比\3", "比分4-2", "比分四比二"),
    Rule(r"(?<![\d.:-])(\d+)-(\d+)(?=等于|是多少|得| ?=)", r"\1减\2", "10-3等于7", "十减三等于七", "10-3级"),
    Rule(rf"(?<![\d.:A-Za-z+*/×÷=-])({NUMBER})[-~]({NUMBER})(?![\d:/-])(?! ?(?:减|加|乘|除|号楼))", _span,
         "要2-3次", "要两到三次", "5-3"),
    Rule(r"(?<=[A-Z])-(?=\d)|(?<=[A-Za-z]{2})-(?=\d)|(?<=[歼轰运直征])-(?=\d)", "", "COVID-19，歼-20", "COVID十九，歼二十", "得了-3分"),
    # clocks and dates
    Rule(r"(?<![\d:.])(\d{1,2}):0?(\d{1,2})(?=分(?!钟|之))", r"\1点\2", "8:05分到站，10:15分开始", "八点五分到站，十点十五分开始"),
    Rule(r"(?<![\d:.])0:00(?![\d:])", "0点", "晚上0:00", "晚上零点"),
    Rule(r"(?<![\d:.])0:([0-5]\d)(?![\d:])", r"0点\1分", "凌晨0:05", "凌晨零点零五分"),
    Rule(r"(?<![\d.])0([1-9])(?=月)|(?<=月)0([1-9])(?=[日号])", lambda match: match[1] or match[2], "07月04日", "七月四日"),
    Rule(r"(?<!\d)(?!2000)(?:19|20)\d\d(?=年[以之]?[前后])", _digits, "2005年后", "二零零五年后"),
    Rule(r"(?<!\d)([3-9])000(?=年)|(?<!\d)([12])000(?=年的?(?:悠久)?(?:历史|文明))", lambda m: f"{m[1] or m[2]}千", "5000年", "五千年", "2000年"),
    Rule(r"(?<![\d.])[0156789]5(?=后(?![天年个的来卫面]))|(?<=生于)[5-9]\d(?=年)|(?<![\d.])[5-9]\d(?=年(?:出生|毕业|入学|结婚))", _digits,
         "95后，85年出生", "九五后，八五年出生", "95后来"),
    # decimals, versions, shares, units
    Rule(r"(?:(?<=[达约了本绩高低均价A-Za-z])|(?<=[价格分绩率均值数量本高低长重][是为])|(?<=[A-Za-z] )|(?<=[涨跌升降增减]到))(1[0-2])\.(\d\d?)"
         r"(?=[，。、；！？）)和与或版]|$)", lambda match: f"{match[1]}点{match[2].translate(_DIGITS)}", "价格是11.5", "价格是十一点五", "在12.5举行"),
    Rule(r"(?<![\d.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?!\.?\d)", r"\1点\2点\3", "5.1.2版", "五点一点二版", "192.168.0.1"),
    Rule(rf"({NUMBER})‰", r"千分之\1", "50‰", "千分之五十"),
    Rule(rf"±({NUMBER})%", r"正负百分之\1", "±5%", "正负百分之五"),
    Rule(CHINESE_UNIT, chinese_unit, "120mmHg，6.1mmol/L，10 kWh", "一百二十毫米汞柱，六点一毫摩尔每升，十千瓦时", "30 seconds，5mins，k8s，5G"),
    Rule(rf"({NUMBER}次)/分钟?", r"每分钟\1", "100次/分", "每分钟一百次"),
    Rule(r"(血压[是为：:高达]*)(\d{2,3})/(\d{2,3})(?!\d)|(?<!\d)(\d{2,3})/(\d{2,3})(?=毫米汞柱)",
         lambda m: f"{m[1]}{m[2]}比{m[3]}" if m[1] else f"{m[4]}比{m[5]}", "血压120/80", "血压一百二十比八十"),
    Rule(r"(?<!\d)(\d+)'(\d{1,2})\"", r"\1分\2秒", "跑了3'20\"", "跑了三分二十秒"),
    Rule(r"(?<=\d秒)\d\d(?!\d)|(?<=[A-Za-z]_)\d{2,}", _digits, "9秒83", "九秒八三"),
    Rule(r"(?<=\d)w(?=\+)|(?<=\d\.\d)w(?![A-Za-z])|(?<=\d)w(?=粉丝|人|播放|阅读|点赞|[块元多个次])", "万", "1.2w粉丝", "一点二万粉丝", "5wifi"),
    Rule(r"(?<![\d.+])(\d*0|\d+(?:\.\d+)?[万亿千])\+(?![\d+])", r"\1多", "1000+人", "一千多人", "C++"),
    Rule(r"([图表]\d+)-(?=\d+(?![\d-]))", r"\1杠", "表4-1", "表四杠一"),
    Rule(r"(?<=[A-Za-z])\+(?=\d)", "加", "8GB+256GB", "八GB加两百五十六GB"),
    Rule(rf"(?<=[{_HAN}])=(?=[{_HAN}\d])", "等于", "1升=2斤", "一升等于两斤"),
    Rule("([①-⑳])、?", lambda match: f"{ord(match[1]) - ord('①') + 1}、", "①准备", "一、准备"),
    Rule(r"(\d) (\d+)/(\d+)(?![\d/])", lambda match: f"{match[1]}又{cardinal(int(match[3]))}分之{cardinal(int(match[2]))}", "3½小时", "三又二分之一小时"),
    *sign_rules("zh"),
    # two of something
    Rule(r"(?<=月)2(?=[日号])|(?<![\d.])2(?=日(?:上午|下午|晚|凌晨|早|中午|电|讯))|(?<=[栋楼号幢座])2(?=单元)", "二", "2月2日，2日上午", "二月二日，二日上午", "2月22日"),
    Rule(r"第2(?!\d|\.\d)", "第二", "第2天", "第二天", "第22天"),
    Rule(r"(?<![\d.A-Za-z第/:-])2(?=[次件份台部条遍门倍](?!元|方|列车)|公斤|星期|年(?!级)|点(?!\d(?!\d|分)))", "两", "2次，2台，2点半", "两次，两台，两点半", "12次，G2次，2年级"),
    Rule(r"(?<![\d.A-Za-z第/:-])2到(?=\d+(?:\.\d+)?(?:[点次件份台部条遍门倍个天周人位名家斤米岁]|年(?!级)))", "两到", "2-3次", "两到三次", "2到3号"),
    # amounts that wetext takes for emergency and service numbers
    Rule(r"(?<![\d.,A-Za-z])(?:1[12]\d|[19]\d{4})(?![\d%.,/:-]*\d|%)", lambda match: cardinal(int(match[0])), "一共120台，共12306人次", "一共一百二十台，共一万二千三百零六人次", "120.5"),
    # Latin words: their dots end no sentence
    Rule(r"(?<![A-Za-z])(Mr|Mrs|Dr|Prof|No|no)\. ?(?=[A-Z\d" + _HAN + "])", lambda match: f"{_ABBREVIATIONS[match[1]]} ", "No.15，Mr. Smith", "number十五，Mister Smith"),
    Rule(r"(?<![A-Za-z])(?:e\.g\.,? ?|(i\.e\.,? ?))", lambda match: "也就是" if match[1] else "例如", "e.g.苹果", "例如苹果"),
    Rule(r"(?<![A-Za-z])(?:[A-Z]\.[ ]?){2,}(?![a-z])", lambda match: match[0].replace(".", ""), "U.S.A.的J. O. A.", "USA的J O A"),
    Rule(r"(?<![A-Za-z])(?:Ph\.D\.?|(St|Jr|Sr|Ms|vs|etc|Inc|Ltd|Co|Corp|[Vv]ol|[Ff]ig|Ch|[Vv]er|pp?|[A-Z])\. ?(?=[A-Za-z0-9]))", lambda match: f"{match[1]} " if match[1] else "PhD", "Vol.3", "Vol三"),
    Rule(r"(?<=[A-Za-z0-9_])\.(?=[a-z]|[A-Z]{2})|\.(?=NET(?![A-Za-z]))", "点", "Node.js", "Node点js", "OK.Then"),
]
# fmt: on
